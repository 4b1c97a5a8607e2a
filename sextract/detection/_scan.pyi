from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

def filter_row(block: Floats, taps: Floats, y: int, x0: int, x1: int, out: Floats, guard: bool) -> None: ...
def scan(
    block: Floats, taps: Floats, y0: int, x0: int, y1: int, x1: int, column: int, threshold: float, guard: bool,
    line: Floats, row_start: NDArray[np.int32], runs: NDArray[Any], first_row: int,
) -> int: ...
