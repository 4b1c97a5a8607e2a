import numpy as np
from numpy.typing import NDArray

PRIMARY: int
DUPLICATE: int
UNKNOWN: int

Floats = NDArray[np.float64]

def decide(
    x: Floats,
    y: Floats,
    z: Floats,
    frame: NDArray[np.int64],
    whole: NDArray[np.uint8],
    radius: float,
    heads: NDArray[np.int32],
    following: NDArray[np.int32],
    state: NDArray[np.uint8],
    primary: NDArray[np.int64],
) -> None: ...
def hash_size(n: int) -> int: ...
