from numpy import float32, float64, int16, int64, uint8
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
def settle(
    pixels: NDArray[float32],
    index: NDArray[int64],
    main: NDArray[int64],
    cx: NDArray[float64],
    cy: NDArray[float64],
    sigma: NDArray[float64],
    variance: float,
    gain: float,
    correct: bool,
    step: float,
    still2: float,
    most: int,
    frame: tuple[int, int, int],
    sums: NDArray[float64],
    iterations: NDArray[int16],
    moving: NDArray[uint8],
) -> None: ...
