import numpy as np
from numpy.typing import NDArray

def fold(
    pixels: NDArray[np.float32],
    index: NDArray[np.int64],
    main: NDArray[np.int64],
    mirror: NDArray[np.int64],
    rows: NDArray[np.int64],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    radii: NDArray[np.float64],
    correct: bool,
    state: NDArray[np.float64],
) -> None: ...
