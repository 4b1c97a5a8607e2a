from numpy import float64
from numpy.typing import NDArray

def ellipses(
    x2: NDArray[float64],
    y2: NDArray[float64],
    xy: NDArray[float64],
    a: NDArray[float64],
    b: NDArray[float64],
    theta: NDArray[float64],
) -> None: ...
