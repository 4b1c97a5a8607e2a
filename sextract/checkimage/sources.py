"""Check-images written source by source: SEGMENTATION and OBJECTS.

A source's own pixels hold its NUMBER in the one, their background-subtracted values (ADU) in the other.  Pixels of no
source are 0.  OBJECTS has the pixels of sources that CLEAN merged into others too.
"""

from __future__ import annotations

from sextract.checkimage.checkimage import CHECKIMAGES, CheckKind

CHECKIMAGES.add(
    "SEGMENTATION",
    CheckKind("SEGMENTATION", "fragments", integer=True, doc="NUMBER of the source a pixel belongs to, 0 for none"),
)
CHECKIMAGES.add(
    "OBJECTS", CheckKind("OBJECTS", "fragments", doc="-BACKGROUND where a source was found, 0 elsewhere (ADU)")
)
