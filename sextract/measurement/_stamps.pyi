from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

def boxes(
    index: Integers,
    cx: NDArray[np.float64],
    cy: NDArray[np.float64],
    hx: NDArray[np.float64],
    hy: NDArray[np.float64],
    width: int,
    height: int,
    margin: int,
    have: Integers,
    offset: Integers,
    need: Integers,
    covers: Bytes,
) -> tuple[int, int]: ...
def copy_held(
    slab: Pixels,
    tiles: Integers,
    height: int,
    width: int,
    tile_height: int,
    tile_width: int,
    halo_y: int,
    halo_x: int,
    y0: int,
    x0: int,
    out: Pixels,
) -> bool: ...
def cut(
    floats: Pixels,
    tiles: Integers,
    height: int,
    width: int,
    tile_height: int,
    tile_width: int,
    halo_y: int,
    halo_x: int,
    slab: Bytes,
    runs: Integers,
    sources: NDArray[Any],
    freed: NDArray[Any],
    masking: bool,
    index: Integers,
    box: Integers,
    offset: Integers,
    arena: Pixels,
    first: int,
    most: int,
) -> int: ...
def hide(
    out: Pixels,
    y0: int,
    x0: int,
    slab: Bytes,
    runs: Integers,
    width: int,
    tile_height: int,
    tile_width: int,
    own: NDArray[Any],
    freed: NDArray[Any],
    mask: Bytes,
) -> None: ...
