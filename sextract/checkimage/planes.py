"""Check-images written tile by tile: BACKGROUND, BACKGROUND_RMS, -BACKGROUND, FILTERED."""

from __future__ import annotations

from sextract.checkimage.checkimage import CHECKIMAGES, CheckKind

CHECKIMAGES.add("BACKGROUND", CheckKind("BACKGROUND", "tile", lambda tile, out: tile.background(out)))
CHECKIMAGES.add("BACKGROUND_RMS", CheckKind("BACKGROUND_RMS", "tile", lambda tile, out: tile.rms(out)))
CHECKIMAGES.add("-BACKGROUND", CheckKind("-BACKGROUND", "tile", lambda tile, out: tile.subtracted(out)))
CHECKIMAGES.add("FILTERED", CheckKind("FILTERED", "tile", lambda tile, out: tile.filtered(out)))
