"""Reading images: files to float32 pixels, and the text of their headers.

The door is ``source.py``; ``spec.py`` reads ``image.fits[2]``, ``header.py`` cards; ``fits.py``, ``compressed.py`` and
``gz.py`` are the formats.  Nothing here knows tiles, budgets or backgrounds.
"""

from __future__ import annotations

from sextract.reading.source import ImageInfo, ImageSource, open_images

__all__ = ["ImageInfo", "ImageSource", "open_images"]
