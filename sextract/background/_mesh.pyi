import numpy as np
from numpy.typing import NDArray

CELL_BYTES: int
HISTOGRAM_ENTRIES: int

def measure_row(
    pixels: NDArray[np.float32],
    cell_width: int,
    first_line: int,
    line_step: int,
    lines: int,
    pearson: float,
    histogram: NDArray[np.uint32],
    back: NDArray[np.float32],
    sigma: NDArray[np.float32],
) -> None: ...
def open_cells(states: NDArray[np.uint8]) -> None: ...
def fold_rows(
    pixels: NDArray[np.float32], state: NDArray[np.uint8], histogram: NDArray[np.uint32], stage: int
) -> None: ...
def close_stage(state: NDArray[np.uint8], histogram: NDArray[np.uint32], stage: int, least: int) -> None: ...
def read_mode(state: NDArray[np.uint8], histogram: NDArray[np.uint32], pearson: float) -> tuple[float, float]: ...
