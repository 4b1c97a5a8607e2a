import numpy as np
from numpy.typing import NDArray

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

class Stream:
    def fold(self, pixels: NDArray[np.float32], stage: int, histogram: NDArray[np.uint32]) -> None: ...
    def close(self, stage: int, least: int, histogram: NDArray[np.uint32]) -> None: ...
    def mode(self, pearson: float, histogram: NDArray[np.uint32]) -> tuple[float, float]: ...
