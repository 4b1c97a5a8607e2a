"""Astronomical source extraction that keeps a memory limit, with SExtractor-compatible catalogues."""

from sextract._version import __version__
from sextract.api import extract
from sextract.config.settings import Settings

__all__ = ["Settings", "__version__", "extract"]
