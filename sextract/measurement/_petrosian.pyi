import numpy as np
from numpy.typing import NDArray

def fold(
    pixels: NDArray[np.float32],
    index: NDArray[np.int64],
    main: NDArray[np.int64],
    rows: NDArray[np.int64],
    ellipse: NDArray[np.float32],
    box: NDArray[np.int64],
    edges: NDArray[np.float64],
    start: int,
    state: NDArray[np.float64],
) -> None: ...
