import numpy as np
from numpy.typing import NDArray

MEDIAN_ENTRIES: int

def repair_cells(back: NDArray[np.float32], sigma: NDArray[np.float32], scratch: NDArray[np.int32]) -> int: ...
def filter_cells(
    back: NDArray[np.float32],
    sigma: NDArray[np.float32],
    half_height: int,
    half_width: int,
    threshold: float,
    saved_back: NDArray[np.float32],
    saved_sigma: NDArray[np.float32],
    values: NDArray[np.float32],
) -> None: ...
def median_over(cells: NDArray[np.float32], above: float, counts: NDArray[np.int64]) -> tuple[float, int]: ...
