from numpy import float32, float64, int32
from numpy.typing import NDArray

def inputs(
    areas: NDArray[int32],
    peak: NDArray[float32],
    threshold: float,
    seeing_px: float,
    seeing_arcsec: float,
    out: NDArray[float64],
) -> None: ...
def layer(values: NDArray[float64], weights: NDArray[float64], out: NDArray[float64]) -> None: ...
