"""Check-images written tile by tile: BACKGROUND, BACKGROUND_RMS, -BACKGROUND, FILTERED."""

from __future__ import annotations

from sextract.checkimage.checkimage import CHECKIMAGES, CheckKind

CHECKIMAGES.add(
    "BACKGROUND", CheckKind("BACKGROUND", "tile", lambda tile, out: tile.background(out), doc="the background (ADU)")
)
CHECKIMAGES.add(
    "BACKGROUND_RMS",
    CheckKind("BACKGROUND_RMS", "tile", lambda tile, out: tile.rms(out), doc="its RMS noise (ADU)"),
)
CHECKIMAGES.add(
    "-BACKGROUND",
    CheckKind("-BACKGROUND", "tile", lambda tile, out: tile.subtracted(out), doc="the image less its background (ADU)"),
)
CHECKIMAGES.add(
    "FILTERED",
    CheckKind("FILTERED", "tile", lambda tile, out: tile.filtered(out), doc="the same after the filter (ADU)"),
)
