from numpy import float32, int64, uint8
from numpy.typing import NDArray

def clear(out: NDArray[uint8], first: NDArray[int64], count: int, value: float) -> None: ...
def fold(
    pixels: NDArray[float32],
    index: NDArray[int64],
    main: NDArray[int64],
    rows: NDArray[int64],
    left: NDArray[int64],
    top: NDArray[int64],
    width: int,
    height: int,
    out: NDArray[uint8],
    first: NDArray[int64],
) -> None: ...
