import numpy as np
from numpy.typing import NDArray

def draw(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    theta: NDArray[np.float64],
    dotted: NDArray[np.int64],
    width: int,
    height: int,
    state: NDArray[np.int64],
    out: NDArray[np.int64],
) -> int: ...
