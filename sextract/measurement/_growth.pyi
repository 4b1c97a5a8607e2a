import numpy as np
from numpy.typing import NDArray

def fold(
    pixels: NDArray[np.float32],
    index: NDArray[np.int64],
    main: NDArray[np.int64],
    mirror: NDArray[np.int64],
    rows: NDArray[np.int64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    limit: NDArray[np.float64],
    radius: NDArray[np.float64],
    correct: bool,
    start: int,
    curve: NDArray[np.float64],
) -> None: ...
def light_radii(
    curve: NDArray[np.float64],
    index: NDArray[np.int64],
    start: int,
    radius: NDArray[np.float64],
    largest: NDArray[np.float64],
    spill: float,
    limit: NDArray[np.float64],
    target: NDArray[np.float64],
    radii: NDArray[np.float64],
    missing: NDArray[np.uint8],
) -> None: ...
