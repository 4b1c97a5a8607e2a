"""LOCAL background: what is left around a source after the background map was subtracted (BACKPHOTO_TYPE LOCAL).

Around the source's box lies a margin of a quarter of its size, around that a frame of BACKPHOTO_THICK pixels.  Its
mode, found as for a cell of the background map, is the correction; detected and bad pixels don't count.  A frame that
leaves the image, or touches its last row or column, gives 0, as does BACKPHOTO_TYPE GLOBAL.

The box is that of the source before CLEAN merged others into it.  SExtractor takes the mode while it scans, when only
the rows above have lost their detections; here all rows have.  The family fills ``dbkg`` of the sources, corrects
``iso`` and ``fwhm`` (``recount.py``), and has no column: BACKGROUND and the fluxes that use it belong to other families.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.config.settings import PhotometrySettings
from sextract.measurement import _local
from sextract.measurement.measure import Array, Batch, Windows, measurement
from sextract.measurement.recount import own_boxes, recount

# What other families find in the batch: the correction, float32 (n,), ADU.
LOCAL_BACKGROUND = "LOCAL_BACKGROUND"


def margin(size: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Pixels between the box of a source and its frame; less if the box takes half of the image."""
    return np.where(size < length // 2, size // 4, (length - size) // 4)


def boxes(sources: Array) -> NDArray[np.int64]:
    """xmin, xmax, ymin, ymax (n, 4), inclusive."""
    return np.column_stack([sources[name] for name in ("xmin", "xmax", "ymin", "ymax")]).astype(np.int64)


def frames(box: NDArray[np.int64], width: int, height: int, thick: int) -> NDArray[np.int64]:
    """The frame around each box: left, bottom, right, top of its outer, then of its inner rectangle, half-open."""
    out = np.empty((len(box), 8), np.int64)
    for k, length in enumerate((width, height)):
        first, last = box[:, 2 * k], box[:, 2 * k + 1] + 1
        gap = margin(last - first, length)
        out[:, 4 + k], out[:, 6 + k] = first - gap, last + gap
        out[:, k], out[:, 2 + k] = out[:, 4 + k] - thick, out[:, 6 + k] + thick
    return out


def reach(sources: Array, photometry: PhotometrySettings) -> tuple[Array, Array]:
    """Half-sizes of the stamps: the frame, seen from the barycentre."""
    if photometry.backphoto_type != "LOCAL":
        return np.zeros(len(sources)), np.zeros(len(sources))
    # An image so large that no box takes half of it.
    outer = frames(boxes(sources), 1 << 40, 1 << 40, photometry.backphoto_thick)
    x, y = sources["x"], sources["y"]
    return np.maximum(x - outer[:, 0], outer[:, 2] - x), np.maximum(y - outer[:, 1], outer[:, 3] - y)


@measurement("local", columns=(), reach=reach)
def local(batch: Batch) -> None:
    """The correction of each source."""
    s, photometry = batch.sources, batch.settings.photometry
    result = np.zeros(len(batch), np.float32)
    if photometry.backphoto_type == "LOCAL" and len(batch):
        width, height = batch.frame.width, batch.frame.height
        around = frames(own_boxes(batch), width, height, photometry.backphoto_thick)
        # The last row and column of the image don't count as inside: a convention of SExtractor.
        inside = (around[:, 0] >= 0) & (around[:, 1] >= 0) & (around[:, 2] < width) & (around[:, 3] < height)
        _measure(batch, around, np.flatnonzero(inside), result)
        recount(batch, result, np.flatnonzero(result))
    batch[LOCAL_BACKGROUND] = result
    s["dbkg"] = result


def _measure(batch: Batch, around: NDArray[np.int64], index: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Fill `out` for the sources `index`, whose frames lie inside the image."""
    pearson = batch.settings.background.pearson
    histogram = np.zeros(_local.HISTOGRAM_ENTRIES, np.uint32)
    giants: list[int] = []
    for view in _views(batch, around, index):
        if _is_piece(view, around):
            giants.append(int(view.index[0]))
        else:
            _local.fold_whole(view.pixels, view.index, view.main, view.rows, around, pearson, histogram, out)
    for i in dict.fromkeys(giants):
        giant = _local.Giant()
        for stage in (1, 2, 3):
            for view in _views(batch, around, np.array([i], np.int64)):
                ya, yb = (int(v) for v in view.rows[0])
                giant.fold(view.pixels, view.main[0], around[i], ya, yb, stage, histogram)
            giant.close(stage, histogram)
        out[i] = giant.background(pearson, histogram)


def _views(batch: Batch, around: NDArray[np.int64], index: NDArray[np.int64]) -> Any:
    """Windows over the frames."""
    cx, cy = 0.5 * (around[:, 0] + around[:, 2] - 1), 0.5 * (around[:, 1] + around[:, 3] - 1)
    return batch.windows(cx - around[:, 0], cy - around[:, 1], cx, cy, index)


def _is_piece(view: Windows, around: NDArray[np.int64]) -> bool:
    """Whether a view holds some rows of one giant only."""
    frame = around[view.index]
    return bool(((view.rows[:, 0] > frame[:, 1]) | (view.rows[:, 1] < frame[:, 3])).any())
