from typing import Any

import numpy as np
from numpy.typing import NDArray

DONE: int
MISSING: int
SCRATCH: int
OUTPUT: int
LARGE: int

Floats = NDArray[np.float32]

PIXEL_BYTES: int

def share_draw(extension: int, x: int, y: int) -> float: ...

def most_scratch(pixels: int, width: int, height: int, nthresh: int, minarea: int) -> int: ...

class Deblender:
    nsources: int
    npieces: int
    needed: int
    needed_sources: int
    needed_pieces: int
    most_pixels: int
    def __init__(
        self, extension: int, width: int, height: int, taps: Floats, nthresh: int, mincont: float, minarea: int, maxarea: int,
        threshold: float, analysis: float, rms: float, gain: float, saturation: float, back: Floats, cell_width: int,
        cell_height: int, most_pixels: int,
    ) -> None: ...
    def begin(
        self, footprints: NDArray[Any], fragments: NDArray[Any], scratch: NDArray[np.uint8], sources: NDArray[Any],
        pieces: NDArray[Any], slab: Floats, tiles: NDArray[np.int64], tile_height: int, tile_width: int, halo_y: int,
        halo_x: int,
    ) -> None: ...
    def run(self, first: int) -> tuple[int, int]: ...
    def prepare(self, i: int) -> bool: ...
    def strip(self, i: int, ya: int, yb: int, block: Floats, y0: int, x0: int) -> None: ...
    def finish(self, i: int) -> int: ...
    def begin_large(self, i: int) -> int: ...
    def order_large(self, i: int, place: bool, first: int, most: int, jumps: int) -> int: ...
    def fold_large(self, i: int, second: bool, ya: int, yb: int, block: Floats, y0: int, x0: int) -> None: ...
    def middle_large(self) -> None: ...
    def end_large(self, i: int) -> None: ...
