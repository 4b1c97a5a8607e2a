from numpy import float32, float64, int64
from numpy.typing import NDArray

SUMS: int
RADIUS: float

def fold(
    pixels: NDArray[float32],
    index: NDArray[int64],
    main: NDArray[int64],
    mirror: NDArray[int64],
    rows: NDArray[int64],
    cx: NDArray[float64],
    cy: NDArray[float64],
    sigma: NDArray[float64],
    variance: float,
    gain: float,
    correct: bool,
    sums: NDArray[float64],
) -> None: ...
