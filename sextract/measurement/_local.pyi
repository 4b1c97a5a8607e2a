import numpy as np
from numpy.typing import NDArray

HISTOGRAM_ENTRIES: int

def fold_whole(
    pixels: NDArray[np.float32],
    index: NDArray[np.int64],
    main: NDArray[np.int64],
    rows: NDArray[np.int64],
    frames: NDArray[np.int64],
    pearson: float,
    histogram: NDArray[np.uint32],
    out: NDArray[np.float32],
) -> None: ...

class Giant:
    def fold(
        self,
        pixels: NDArray[np.float32],
        window: NDArray[np.int64],
        frame: NDArray[np.int64],
        ya: int,
        yb: int,
        stage: int,
        histogram: NDArray[np.uint32],
    ) -> None: ...
    def close(self, stage: int, histogram: NDArray[np.uint32]) -> None: ...
    def background(self, pearson: float, histogram: NDArray[np.uint32]) -> float: ...
