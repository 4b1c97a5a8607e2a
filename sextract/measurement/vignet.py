"""VIGNET: a cutout of the background-subtracted image around each source, for PSF modelling.

Pixels outside the frame, bad ones, and those of neighbours (unless MASK_TYPE is NONE) hold −1e30.  Rows are copied in
``_vignet.pyx``; the LOCAL background isn't taken off.
"""

from __future__ import annotations

import numpy as np

from sextract.measurement import _vignet
from sextract.measurement.measure import Batch, measurement
from sextract.records import BAD, Column

# The source's pixel, rounded just as SExtractor does.
HALF = 0.49999

COLUMNS = (Column("VIGNET", "f4", "count", "G12.7", "Pixel data around detection", "obs.image", vector="param"),)


@measurement("vignet", columns=COLUMNS, direct=True)
def vignet(batch: Batch) -> None:
    """Fill VIGNET: float32 (n, h, w) for ``VIGNET(w,h)``, ADU; the barycentre is in pixel [h // 2, w // 2].

    ``VIGNET(n)`` is a row, (n,), and VIGNET alone a pixel, as in SExtractor.
    """
    dims = batch.dims.get("VIGNET", ())
    width, height = (*dims, 1, 1)[:2]
    s = batch.sources
    x, y = (s["x"] + HALF).astype(np.int64), (s["y"] + HALF).astype(np.int64)
    out, first = batch.place_of("VIGNET")
    _vignet.clear(out, first, width * height, BAD)
    hx, hy = (np.full(len(batch), side / 2.0 + 1.0) for side in (width, height))
    for v in batch.windows(hx, hy):
        _vignet.fold(v.pixels, v.index, v.main, v.rows, x - width // 2, y - height // 2, width, height, out, first)
