from numpy import float32, int64
from numpy.typing import NDArray

def fold(
    pixels: NDArray[float32],
    index: NDArray[int64],
    main: NDArray[int64],
    rows: NDArray[int64],
    left: NDArray[int64],
    top: NDArray[int64],
    out: NDArray[float32],
) -> None: ...
