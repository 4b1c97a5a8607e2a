"""A first measurement, of a made-up star, by which a process comes to hold what it will hold.

What runs when is ``stages.py``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.config.settings import Settings
from sextract.measurement.measure import MEASUREMENTS, Batch, Cutter
from sextract.records import FRAGMENT, SOURCE, Box, Frame

# A round star two pixels wide, in the middle of a small frame.
WARM_SOURCE: dict[str, float] = {
    "x": 32.0, "y": 32.0, "x2": 4.0, "y2": 4.0, "a": 2.0, "b": 2.0, "cxx": 0.25, "cyy": 0.25, "npix": 80, "flux_iso": 2500.0,
    "var_iso": 80.0, "fdflux": 2500.0, "peak": 100.0, "thresh": 1.0, "dthresh": 1.0, "isoarea": 80, "iso": 10, "fwhm": 4.7,
    "xmin": 27, "xmax": 37, "ymin": 27, "ymax": 37, "number": 1, "parent": 1, "errx2": 0.01, "erry2": 0.01,
}  # fmt: skip


def measure_star(families: Sequence[str], settings: Settings, dims: Mapping[str, tuple[int, ...]], header: str) -> None:
    """Run families on a star.

    Parameters
    ----------
    families : sequence of str
    settings : Settings
    dims : mapping
        Columns requested; vectors get one element.
    header : str
        For sky positions.
    """
    side = 63
    x2 = (np.arange(side, dtype=np.float32) - 32) ** 2
    star = 100 * np.exp(-0.125 * (x2[:, None] + x2))
    sources = np.zeros(4, SOURCE)
    for name, value in WARM_SOURCE.items():
        sources[name] = value
    frame = Frame(side, side, threshold=1.0, analysis_threshold=1.0, header=header)
    arena = np.empty(4 * star.size, np.float32)
    batch = Batch(sources, frame, settings, {name: (1,) * len(shape) for name, shape in dims.items()}, PlainPixels(star), arena)
    for name in families:
        MEASUREMENTS.get(name).run(batch)


@dataclass(slots=True)
class PlainPixels(Cutter):
    """A whole image in memory, without masks."""

    image: NDArray[np.float32]
    first_row: int = 0
    final_row: int = 1 << 30

    def cut(self, source: int, box: Box, out: NDArray[np.float32]) -> None:
        """See `measure.Cutter`."""
        out[:] = self.image[box.y0 : box.y1, box.x0 : box.x1]

    def own(self, source: int, rows: tuple[int, int] | None = None) -> NDArray[Any]:
        """See `measure.Cutter`: none."""
        return np.empty(0, FRAGMENT)
