"""Plain FITS: values of every BITPIX against NumPy, any box, any scratch, huge files, forks and pickles."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sextract.errors import InputError
from sextract.reading import open_images
from sextract.reading._convert import convert
from sextract.reading.scaling import scaling_of
from sextract.records import BAD, Box

ROOT = Path(__file__).resolve().parents[2]
TYPES = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}


def stored_values(bitpix: int, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(bitpix + 100)
    if bitpix < 0:
        values = rng.normal(1000, 300, shape).astype(TYPES[bitpix])
        values.flat[3], values.flat[7], values.flat[9], values.flat[11] = np.nan, np.inf, -np.inf, 1e-41
        return values
    limits = np.iinfo(TYPES[bitpix])
    values = rng.integers(limits.min, limits.max, shape, endpoint=True, dtype=TYPES[bitpix])
    values.flat[2:5] = 7
    values.flat[5], values.flat[6] = limits.min, limits.max
    return values


def expected(stored: np.ndarray, bitpix: int, scale: float, zero: float, blank: int | None) -> np.ndarray:
    """NumPy's version of the arithmetic: single precision, but where that would lose the value."""
    with np.errstate(over="ignore", invalid="ignore"):
        if bitpix == -64:
            value = stored * float(np.float32(scale)) + float(np.float32(zero))
        elif bitpix == 64 or (bitpix == 32 and abs(zero) > 2**24 * abs(scale)):
            value = stored.astype("f8") * scale + zero
        else:
            value = stored.astype("f4") * np.float32(scale) + np.float32(zero)
        value = value.astype("f4")
    bad = ~np.isfinite(value) | (value <= np.float32(BAD) / 10)
    if blank is not None and bitpix > 0:
        bad |= stored == blank
    return np.where(bad, np.float32(BAD), value)


@pytest.mark.parametrize("bitpix", TYPES)
@pytest.mark.parametrize(
    ("scale", "zero", "blank"),
    [(None, None, None), (0.1, 5.3, None), (1.7e-3, 32768.0, 7), (1.0, 32768.0, 7), (1.0, 2147483648.0, None)],
)
def test_values_of_every_type(write, tools, bitpix, scale, zero, blank):
    stored = stored_values(bitpix, (13, 29))
    extra = []
    if scale is not None:
        extra += [tools.card("BSCALE", scale), tools.card("BZERO", zero)]
    if blank is not None:
        extra += [tools.card("BLANK", blank)]
    (source,) = open_images(write(tools.hdu_bytes(stored, bitpix, extra)))
    truth = expected(stored, bitpix, 1.0 if scale is None else scale, 0.0 if zero is None else zero, blank)
    out, bad = tools.read_all(source)
    np.testing.assert_array_equal(out, truth)
    assert bad == np.count_nonzero(truth == np.float32(BAD))
    assert (source.info.width, source.info.height, source.info.bitpix) == (29, 13, bitpix)


@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("bitpix", TYPES)
def test_rows_of_every_length(tools, bitpix, big):
    scaling = scaling_of(tools.card("BSCALE", 0.7) + tools.card("BLANK", 7), bitpix, "here")
    for width in range(1, 140):
        stored = stored_values(bitpix, (12, width))
        raw = stored.astype(stored.dtype.newbyteorder(">" if big else "=")).reshape(-1).view(np.uint8)
        out = np.empty(stored.shape, np.float32)
        bad = scaling.apply(raw, width * scaling.nbytes, out, big=big)
        truth = expected(stored, bitpix, 0.7, 0.0, 7)
        np.testing.assert_array_equal(out, truth)
        assert bad == np.count_nonzero(truth == np.float32(BAD))


def test_unsigned_32_bit_values_are_exact(write, tools):
    values = np.array([[0, 1, 1000, 2**24, 2**31, 2**32 - 256]])
    extra = [tools.card("BZERO", 2147483648)]
    (source,) = open_images(write(tools.hdu_bytes(values - 2**31, 32, extra)))
    np.testing.assert_array_equal(tools.read_all(source)[0], values.astype("f4"))


def test_values_that_overflow_float32_or_reach_the_mark_are_bad(write, tools):
    stored = np.array([[1e300, -1e300, 3e38, -2e29, -9e28, 4e38]])
    (source,) = open_images(write(tools.hdu_bytes(stored, -64)))
    out, bad = tools.read_all(source)
    np.testing.assert_array_equal(out[0], np.array([BAD, BAD, 3e38, BAD, -9e28, BAD], "f4"))
    assert bad == 4


def test_blank_outside_the_type_marks_nothing(write, tools):
    (source,) = open_images(write(tools.hdu_bytes(np.array([[0, 1, 255]]), 8, [tools.card("BLANK", -32768)])))
    assert tools.read_all(source)[1] == 0


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_box_with_any_scratch_and_stride(tmp_path_factory, tools, data):
    bitpix = data.draw(st.sampled_from(list(TYPES)))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 70))
    stored = np.arange(height * width).reshape(height, width) % 120
    path = tmp_path_factory.mktemp("box") / "image.fits"
    path.write_bytes(tools.hdu_bytes(stored, bitpix))
    (source,) = open_images(str(path))
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    whole = np.full((y1 - y0 + 1, x1 - x0 + data.draw(st.integers(0, 5))), np.float32(-5))
    scratch = np.zeros(data.draw(st.integers(64, 5000)), np.uint8)
    assert source.read_into(Box(y0, x0, y1, x1), whole[: y1 - y0, : x1 - x0], scratch) == 0
    np.testing.assert_array_equal(whole[: y1 - y0, : x1 - x0], stored[y0:y1, x0:x1])
    assert (whole[y1 - y0 :] == -5).all()
    assert (whole[:, x1 - x0 :] == -5).all()


@pytest.mark.parametrize("width", [3000, 20000])
def test_narrow_boxes_of_wide_images(write, tools, width):
    # One width reads over the gaps, the other skips them.
    stored = np.arange(30 * width, dtype="f8").reshape(30, width)
    (source,) = open_images(write(tools.hdu_bytes(stored, -64)))
    out = np.empty((25, 11), "f4")
    source.read_into(Box(3, 1200, 28, 1211), out, np.zeros(1 << 17, np.uint8))
    np.testing.assert_array_equal(out, stored[3:28, 1200:1211].astype("f4"))


@pytest.mark.parametrize("shape", [(1, 1), (1, 100_000), (100_000, 1)])
def test_extreme_shapes(write, tools, shape):
    stored = np.arange(np.prod(shape)).reshape(shape) % 30000
    (source,) = open_images(write(tools.hdu_bytes(stored, 16)))
    assert (source.info.height, source.info.width) == shape
    np.testing.assert_array_equal(tools.read_all(source, 4096)[0], stored)


def test_beyond_two_gigabytes_and_two_gigapixels(tmp_path, tools):
    height, width = 50_000, 50_000
    path = tmp_path / "huge.fits"
    with open(path, "wb") as file:
        file.write(tools.header_bytes(tools.structure(16, (height, width))))
        start = file.tell()
        file.truncate(start + height * width * 2)
        row = np.arange(width).astype(">i2")
        file.seek(start + (height - 1) * width * 2)
        file.write(row.tobytes())
    (source,) = open_images(str(path))
    scratch = np.zeros(1 << 16, np.uint8)
    out = np.empty((2, width), "f4")
    assert source.read_into(Box(height - 2, 0, height, width), out, scratch) == 0
    np.testing.assert_array_equal(out[1], row.astype("f4"))
    assert not out[0].any()
    corner = np.empty((1, 3), "f4")
    source.read_into(Box(height - 1, width - 3, height, width), corner, scratch)
    np.testing.assert_array_equal(corner[0], row[-3:].astype("f4"))


def test_a_file_without_final_padding_is_fine(write, tools):
    data = tools.hdu_bytes(np.ones((5, 5)), 16)
    (source,) = open_images(write(data[: 2880 + 50]))
    assert tools.read_all(source)[0].sum() == 25


def test_a_fork_opens_the_file_anew(write, tools):
    (source,) = open_images(write(tools.hdu_bytes(np.full((4, 6), 3), 16)))
    tools.read_all(source)
    before = source._handle.fileno()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ok = tools.read_all(source)[0].sum() == 72 and source._handle.fileno() != before
            status = 0 if ok else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert tools.read_all(source)[0].sum() == 72


def test_what_was_open_is_read_whatever_becomes_of_its_name(write, tools):
    path = write(tools.hdu_bytes(np.ones((4, 6)), 16))
    (source,) = open_images(path)
    os.unlink(path)
    assert tools.read_all(source)[0].sum() == 24
    source.check_unchanged()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if tools.read_all(source)[0].sum() == 24 else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_another_file_under_the_name_is_noticed(write, tools):
    path = write(tools.hdu_bytes(np.ones((4, 6)), 16))
    (source,) = open_images(path)
    message = pickle.dumps(source)
    new = write(tools.hdu_bytes(np.ones((8, 6)), 16, [tools.card("A", k) for k in range(40)]), "new.fits")
    os.replace(new, path)
    with pytest.raises(InputError, match="changed"):
        source.check_unchanged()
    with pytest.raises(InputError, match="changed"):
        tools.read_all(pickle.loads(message))
    source.close()
    with pytest.raises(InputError, match="changed"):
        tools.read_all(source)


@pytest.mark.parametrize("change", ["write", "append", "cut"])
def test_a_file_that_is_written_to_is_noticed(write, tools, change):
    path = write(tools.hdu_bytes(np.ones((4, 6)), 16))
    (source,) = open_images(path)
    tools.read_all(source)
    source.check_unchanged()
    size = os.path.getsize(path)
    # Written to in place: the time tells.  Set by hand, because two writes may fall into one tick of the clock.
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 1))
    if change != "write":
        os.truncate(path, size + (1 if change == "append" else -1))
    with pytest.raises(InputError, match="changed"):
        source.check_unchanged()


def test_a_file_that_shrinks_is_noticed(write, tools):
    path = write(tools.hdu_bytes(np.ones((400, 60)), 16))
    (source,) = open_images(path)
    tools.read_all(source)
    os.truncate(path, 2880 + 100)
    with pytest.raises(InputError, match=r"changed.*ends at byte 2980"):
        tools.read_all(source)


def test_the_kernel_refuses_too_few_bytes_and_gapped_rows():
    raw, out = np.zeros(15, np.uint8), np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="fewer"):
        convert(raw, 0, 8, out, -32, False, True, 1.0, 0.0, False, 0)
    with pytest.raises(ValueError, match="contiguous"):
        convert(
            np.zeros(64, np.uint8), 0, 8, np.zeros((2, 4), np.float32)[:, ::2], -32, False, True, 1.0, 0.0, False, 0
        )


def test_unaligned_raw_bytes(tools):
    values = np.arange(50, dtype=">f8")
    raw = np.zeros(407, np.uint8)
    raw[5:405] = np.frombuffer(values.tobytes(), np.uint8)
    out = np.empty((5, 10), np.float32)
    assert scaling_of("", -64, "here").apply(raw, 80, out, start=5) == 0
    np.testing.assert_array_equal(out.ravel(), values.astype("f4"))


def test_reading_imports_no_heavy_library():
    code = (
        "import sys, sextract.reading.header, sextract.reading.gz; "
        "print([m for m in ('astropy', 'scipy', 'fitsio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
