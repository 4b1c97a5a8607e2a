import numpy as np
from numpy.typing import NDArray

def convert(
    raw: NDArray[np.uint8],
    start: int,
    stride: int,
    out: NDArray[np.float32],
    bitpix: int,
    wide: bool,
    big: bool,
    scale: float,
    zero: float,
    has_blank: bool,
    blank: int,
) -> int: ...
def ones_complement(raw: NDArray[np.uint8], total: int) -> int: ...
