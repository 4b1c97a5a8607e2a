"""The layouts that cross rooms: the same for NumPy and for C, and what kernels are given is what they take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sextract import records
from sextract.deblending import _clean
from sextract.records import BAD, FOOTPRINT, FRAGMENT, RUN, SOURCE, Box

TYPES = {"int32_t": "<i4", "int64_t": "<i8", "float": "<f4", "double": "<f8"}
STRUCT = re.compile(r"^cdef struct (\w+):\n((?:    .*\n?)+)", re.MULTILINE)
FIELD = re.compile(r"^    (\w+) (\w+)(?:\[(\d+)\])?\s*$", re.MULTILINE)


def structs() -> dict[str, list[tuple[Any, ...]]]:
    """The structs of records.pxd as lists of fields."""
    text = Path(records.__file__).with_suffix(".pxd").read_text()
    return {
        name: [(f, TYPES[kind], (int(n),)) if n else (f, TYPES[kind]) for kind, f, n in FIELD.findall(body)]
        for name, body in STRUCT.findall(text)
    }


@pytest.mark.parametrize(
    "name, dtype", [("Run", RUN), ("Fragment", FRAGMENT), ("Source", SOURCE), ("Footprint", FOOTPRINT)]
)
def test_layouts_are_those_of_c(name: str, dtype: np.dtype[Any]) -> None:
    assert np.dtype(structs()[name], align=True) == dtype


def test_every_struct_has_its_layout() -> None:
    assert set(structs()) == {"Run", "Fragment", "Source", "Footprint"}


def test_a_kernel_refuses_another_layout() -> None:
    other = np.dtype([(n, "<f8" if n == "a" else SOURCE[n]) for n in SOURCE.names or ()], align=True)
    cleaner = _clean.Cleaner(1.0, True, 9, 1, 9, 9, np.zeros(8, np.int32), np.zeros(8, np.int32))
    with pytest.raises(ValueError, match="mismatch"):
        cleaner.attach(np.zeros(3, other), np.zeros(3 * _clean.ENTRY_BYTES, np.uint8), 0)


def test_a_bad_pixel_is_bad_whatever_rounding_does() -> None:
    assert np.float32(BAD) < np.float32(BAD / 10) < -1e28
    assert np.float32(BAD) + np.float32(1e22) < BAD / 10


def test_boxes() -> None:
    box = Box(2, 3, 7, 11)
    assert box.shape == (5, 8) and box.size == 40
    assert box.grown(1, 2, 100, 100) == Box(1, 1, 8, 13)
    assert box.grown(3, 4, 9, 12) == Box(0, 0, 9, 12)
