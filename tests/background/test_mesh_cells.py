"""Cell statistics: against the NumPy twin bit for bit, and against what is known of the pixels."""

from __future__ import annotations

import background_twins as twins
import numpy as np
import pytest

from sextract.background.mesh import SCRATCH_BYTES, CellStream, cell_statistics, mesh_grid
from sextract.config.settings import BackgroundSettings
from sextract.errors import ConfigError
from sextract.records import BAD

RNG = np.random.default_rng
SCRATCH = np.zeros(SCRATCH_BYTES, np.uint8)


def crowded(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    image = rng.normal(300, 12, shape)
    image[rng.random(shape) < 0.2] += rng.exponential(200, shape)[rng.random(shape) < 0.2].mean()
    return image + rng.exponential(8, shape)


FIELDS = {
    "noise": lambda rng, s: rng.normal(100, 10, s),
    "counts": lambda rng, s: rng.poisson(30, s),
    "crowded": crowded,
    "two values": lambda rng, s: rng.integers(0, 2, s) * 100.0,
    "outlier": lambda rng, s: np.where(rng.random(s) < 1e-3, 1e9, rng.normal(0, 1, s)),
    "few levels": lambda rng, s: np.round(rng.normal(5, 0.7, s)),
    "far from zero": lambda rng, s: rng.normal(1e6, 2, s),
}


@pytest.mark.parametrize("size", [(64, 64), (33, 40), (17, 31), (8, 8), (3, 1)])
@pytest.mark.parametrize("field", FIELDS)
def test_twin(field, size):
    image = FIELDS[field](RNG(4), (100, 130)).astype(np.float32)
    image[RNG(5).random(image.shape) < 0.3] = BAD
    grid = mesh_grid(130, 100, twins.settings(size))
    back, sigma = twins.raw_maps(image, grid)
    for j in range(grid.ny):
        y0, y1 = grid.rows(j)
        for i in range(grid.nx):
            x0, x1 = grid.columns(i, i + 1)
            assert (back[j, i], sigma[j, i]) == twins.cell(image[y0:y1, x0:x1]), (j, i)


def test_noise_has_its_mean_and_sigma():
    grid = mesh_grid(256, 256, twins.settings(64))
    back, sigma = twins.raw_maps(RNG(1).normal(500, 20, (256, 256)).astype(np.float32), grid)
    assert np.abs(back - 500).max() < 6 * 20 / 64
    assert np.abs(sigma / 20 - 1).max() < 0.08


def test_sources_are_clipped():
    image = RNG(1).normal(500, 20, (64, 64))
    image[20:28, 20:30] += 3000
    back, sigma = twins.raw_maps(image.astype(np.float32), mesh_grid(64, 64, twins.settings(64)))
    assert abs(back[0, 0] - 500) < 2
    assert abs(sigma[0, 0] - 20) < 2


@pytest.mark.parametrize(("good", "expected"), [(2048, True), (2047, False), (0, False)])
def test_half_of_the_pixels_must_be_good(good, expected):
    image = np.full(4096, BAD, np.float32)
    image[:good] = RNG(2).normal(7, 1, good)
    back, sigma = twins.raw_maps(image.reshape(64, 64), mesh_grid(64, 64, twins.settings(64)))
    assert (back[0, 0] > BAD / 10) == (sigma[0, 0] > BAD / 10) == expected
    assert expected or back[0, 0] == np.float32(BAD)


@pytest.mark.parametrize("value", [0.0, 1234.567, -3e8, 1e20])
def test_constant_cell(value):
    back, sigma = twins.raw_maps(np.full((64, 64), value, np.float32), mesh_grid(64, 64, twins.settings(64)))
    assert back[0, 0] == np.float32(value)
    assert sigma[0, 0] == 0


def test_equal_but_for_rounding():
    # The variance is lost to cancellation, and the limits lie between the two values.
    image = np.full((64, 64), 16777216.0, np.float32)
    image[::2] += 2
    back, sigma = twins.raw_maps(image, mesh_grid(64, 64, twins.settings(64)))
    assert 16777215 < back[0, 0] < 16777220
    assert 0 <= sigma[0, 0] < 10


def test_a_single_pixel_counts_its_mean_as_a_level():
    back, sigma = twins.raw_maps(np.full((1, 1), 7, np.float32), mesh_grid(1, 1, twins.settings(64)))
    assert (back[0, 0], sigma[0, 0]) == (14, 0)


def test_pearson():
    image = (RNG(3).gamma(3, 5, (64, 64))).astype(np.float32)
    maps = {
        p: twins.raw_maps(image, mesh_grid(64, 64, twins.settings(64, pearson=p)))[0][0, 0] for p in (1.5, 2.5, 3.5)
    }
    assert maps[3.5] < maps[2.5] < maps[1.5]
    assert maps[3.5] == twins.cell(image, pearson=3.5)[0]


def test_some_cells_of_a_row_are_those_of_the_whole():
    image = RNG(6).normal(0, 1, (40, 300)).astype(np.float32)
    grid = mesh_grid(300, 40, twins.settings((32, 40)))
    back, sigma = twins.raw_maps(image, grid)
    for i0, i1 in ((0, 1), (2, 5), (7, 10), (9, 10)):
        x0, x1 = grid.columns(i0, i1)
        part = np.empty((2, i1 - i0), np.float32)
        cell_statistics(image[:, x0:x1], grid, 0, part[0], part[1], SCRATCH)
        np.testing.assert_array_equal(part, [back[0, i0:i1], sigma[0, i0:i1]])


def test_pixels_that_are_not_the_cells_are_refused():
    grid = mesh_grid(300, 40, twins.settings((32, 40)))
    out = np.empty((2, 2), np.float32)
    for shape in ((40, 65), (39, 64), (40, 32)):
        with pytest.raises(ValueError, match="are not the 2 cells of row 0"):
            cell_statistics(np.zeros(shape, np.float32), grid, 0, out[0], out[1], SCRATCH)


@pytest.mark.parametrize(
    ("width", "height", "lines"),
    [
        (16384, 64, (0, 1, 64)),
        (20000, 64, (1, 2, 32)),
        (32768, 64, (1, 2, 32)),
        (32768, 65, (1, 3, 21)),
        (40000, 64, (1, 3, 21)),
        (70000, 48, (2, 4, 12)),
        (20000, 36, (0, 1, 36)),
        (2_000_000, 5, (2, 5, 1)),
    ],
)
def test_lines_of_wide_images(width, height, lines):
    # As found by running SExtractor on noise with a slope in each row of cells.
    assert mesh_grid(width, height, twins.settings((64, height))).limit_lines(0) == lines


def wide_cell() -> tuple[np.ndarray, object]:
    rng = RNG(7)
    pixels = (rng.normal(100, 10, (64, 64)) + 3 * np.arange(64)[:, None]).astype(np.float32)
    pixels[rng.random(pixels.shape) < 0.2] = BAD
    return pixels, mesh_grid(20000, 64, twins.settings(64))


def test_limits_of_a_wide_image_come_from_some_lines():
    pixels, grid = wide_cell()
    out = np.empty((2, 1), np.float32)
    cell_statistics(pixels, grid, 0, out[0], out[1], SCRATCH)
    assert tuple(out[:, 0]) == twins.cell(pixels, slice(1, None, 2))
    assert tuple(out[:, 0]) != twins.cell(pixels)


@pytest.mark.parametrize("block", [1, 5, 64, 100])
@pytest.mark.parametrize("wide", [False, True])
def test_streamed_cell(block, wide):
    pixels, grid = wide_cell()
    if not wide:
        grid = mesh_grid(128, 128, twins.settings(64))
    row = 0 if wide else 1
    truth = np.empty((2, 1), np.float32)
    cell_statistics(pixels, grid, row, truth[0], truth[1], SCRATCH)
    stream = CellStream(grid, row, 0, np.full(SCRATCH_BYTES, 255, np.uint8))
    for stage in (1, 2, 3):
        for y in range(0, 64, block):
            stream.fold(stage, stream.rows[0] + y, pixels[y : y + block])
        stream.close(stage)
    assert stream.mode() == tuple(truth[:, 0])


def test_grid():
    grid = mesh_grid(1059, 200, BackgroundSettings(size=(64, 100), filter_size=(5, 3)))
    assert (grid.nx, grid.ny, grid.filter_width, grid.filter_height) == (17, 2, 5, 3)
    assert grid.columns(16, 17) == (1024, 1059)
    assert grid.rows(1) == (100, 200)
    single = mesh_grid(50, 40, BackgroundSettings(filter_size=(5, 3)))
    assert (single.cell_width, single.cell_height, single.nx, single.ny) == (50, 40, 1, 1)
    assert (single.filter_width, single.filter_height) == (1, 1)


def test_a_cell_beyond_the_histogram_is_refused():
    with pytest.raises(ConfigError, match="BACK_SIZE"):
        mesh_grid(70000, 70000, twins.settings(70000))
