from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

class Cleaner:
    count: int
    def __init__(
        self, beta: float, enabled: bool, reach: int, lag: int, width: int, height: int, heads: Ints, found: Ints
    ) -> None: ...
    def attach(self, table: NDArray[Any], follow: Ints, count: int) -> None: ...
    def add(self, upto: int, slab: NDArray[np.uint8], freed: NDArray[Any]) -> tuple[int, int]: ...
    def number(self, first: int, final_row: int, number: int) -> tuple[int, int]: ...
