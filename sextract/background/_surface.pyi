import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE: int

def tabulate(cell_width: int, n: int, factors: NDArray[np.float32], steps: NDArray[np.float32]) -> None: ...
def differentiate(nodes: NDArray[np.float32], factors: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
def apply(
    nodes: NDArray[np.float32],
    bends: NDArray[np.float32],
    factors: NDArray[np.float32],
    steps: NDArray[np.float32],
    cell_width: int,
    cell_height: int,
    y0: int,
    x0: int,
    pixels: NDArray[np.float32],
    scratch: NDArray[np.float32],
    subtract: bool,
) -> None: ...
def interpolate(
    nodes: NDArray[np.float32],
    cell_width: int,
    cell_height: int,
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None: ...
