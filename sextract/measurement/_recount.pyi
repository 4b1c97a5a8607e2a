from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS: int
SUMS: int
LEVELS: int

def extent(own: NDArray[Any], out: NDArray[np.int64]) -> None: ...
def brightest(pixels: NDArray[np.float32], window: NDArray[np.int64], ya: int, yb: int, own: NDArray[Any]) -> float: ...
def isophotes(threshold: float, peak: float, out: NDArray[np.float32]) -> None: ...
def fold(
    pixels: NDArray[np.float32],
    window: NDArray[np.int64],
    ya: int,
    yb: int,
    own: NDArray[Any],
    xc: float,
    yc: float,
    local: float,
    back: float,
    saturation: float,
    low: float,
    limits: NDArray[np.float32],
    areas: NDArray[np.int64],
    sums: NDArray[np.float64],
    rows: NDArray[np.float64],
) -> None: ...
