from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE_BYTES: int
COMPONENT_BYTES: int
LABEL_BYTES: int

Bytes = NDArray[np.uint8]
Starts = NDArray[np.int32]

def join_tiles(starts: list[Starts], runs: list[NDArray[Any]], rows: int, out_start: Starts, out: NDArray[Any]) -> None: ...

class Components:
    npieces: int
    ncomponents: int
    parents: int
    waiting: tuple[int, int, int]
    first_closed_row: int
    free: tuple[int, int]
    def __init__(self, pieces: Bytes, components: Bytes, labels: Bytes, minarea: int) -> None: ...
    def feed(self, row_start: Starts, runs: NDArray[Any], y0: int, first: int) -> int: ...
    def finish(self, y: int) -> None: ...
    def add_pieces(self, block: Bytes) -> None: ...
    def move_components(self, components: Bytes) -> None: ...
    def next_closed(self, most_pixels: int, most: int, most_pieces: int) -> tuple[int, int, int]: ...
    def drain(
        self, out: NDArray[Any], fragments: NDArray[Any], done: int = 0, most: int = ..., jumps: int = ...
    ) -> int: ...
