import numpy as np
from numpy.typing import NDArray

def watch(
    statm: NDArray[np.int32],
    blocks: int,
    at: NDArray[np.float64],
    out: NDArray[np.int64],
    every: float,
    over: NDArray[np.uint8],
) -> int: ...
