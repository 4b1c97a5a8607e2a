"""VIGNET: a cutout of the background-subtracted image around each source, for PSF modelling.

Pixels outside the frame, bad ones, and those of neighbours (unless MASK_TYPE is NONE) hold −1e30.  Rows are copied in
``_vignet.pyx``; the LOCAL background isn't taken off.
"""

from __future__ import annotations

import numpy as np

from sextract.errors import ConfigError
from sextract.measurement import _vignet
from sextract.measurement.measure import Batch, measurement
from sextract.records import BAD, Column

# The source's pixel, rounded just as SExtractor does.
HALF = 0.49999

COLUMNS = (
    Column("VIGNET", "f4", "count", "G12.7", "Pixel data around detection", "obs.image", vector="param"),
)


@measurement("vignet", columns=COLUMNS)
def vignet(batch: Batch) -> None:
    """Fill VIGNET: float32 (n, h, w) for ``VIGNET(w,h)``, ADU; the barycentre is in pixel [h // 2, w // 2].

    Raises
    ------
    ConfigError
        The request isn't ``VIGNET(n)`` or ``VIGNET(n,m)``.
    """
    dims = batch.dims.get("VIGNET", ())
    if not 1 <= len(dims) <= 2:
        raise ConfigError("VIGNET needs its size in the parameter file (PARAMETERS_NAME), as in VIGNET(35,35)")
    width, height = dims[0], dims[-1] if len(dims) == 2 else 1
    s = batch.sources
    x, y = (s["x"] + HALF).astype(np.int64), (s["y"] + HALF).astype(np.int64)
    out = np.full((len(batch), height, width), BAD, np.float32)
    hx, hy = (np.full(len(batch), side / 2.0 + 1.0) for side in (width, height))
    for v in batch.windows(hx, hy):
        _vignet.fold(v.pixels, v.index, v.main, v.rows, x - width // 2, y - height // 2, out)
    batch["VIGNET"] = out
