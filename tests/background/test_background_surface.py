"""The surface: against the NumPy twin and sep, and the same bits whatever the box."""

from __future__ import annotations

import math

import background_twins as twins
import numpy as np
import pytest

from sextract.background.surface import Background
from sextract.records import BAD, Box

SHAPES = [(100, 130), (1, 90), (90, 1), (65, 65), (33, 128), (20, 20), (7, 100)]


def field(shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (rng.normal(200, 5, shape) + 40 * np.sin(x / 30) * np.cos(y / 25)).astype(np.float32)


def whole(shape: tuple[int, int]) -> Box:
    return Box(0, 0, *shape)


@pytest.mark.parametrize("size", [64, 16, (7, 9), (5, 31), 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_twin(shape, size):
    image = field(shape)
    background, scratch = twins.finished(image, twins.settings(size, 1))
    out = np.empty_like(image)
    cell = background.grid.cell_width, background.grid.cell_height
    for method, nodes in ((background.evaluate, background.back), (background.rms, background.sigma)):
        method(whole(shape), out, scratch)
        np.testing.assert_array_equal(out, twins.surface(nodes, *cell, shape[1], shape[0]))


@pytest.mark.parametrize("size", [64, (13, 10)])
def test_any_box_has_the_same_bits(size):
    shape = (150, 200)
    image = field(shape)
    image[3, 4] = image[100, 199] = BAD
    background, scratch = twins.finished(image, twins.settings(size))
    truth = image.copy()
    background.subtract(whole(shape), truth, scratch)
    rng = np.random.default_rng(3)
    for _ in range(60):
        y0, x0 = int(rng.integers(0, shape[0])), int(rng.integers(0, shape[1]))
        y1, x1 = int(rng.integers(y0, shape[0])) + 1, int(rng.integers(x0, shape[1])) + 1
        # A view with rows further apart than its width.
        holder = np.full((y1 - y0, x1 - x0 + 5), 77, np.float32)
        part = holder[:, 2 : 2 + x1 - x0]
        part[...] = image[y0:y1, x0:x1]
        background.subtract(Box(y0, x0, y1, x1), part, scratch)
        np.testing.assert_array_equal(part, truth[y0:y1, x0:x1])
        assert (holder[:, :2] == 77).all()
        assert (holder[:, 2 + x1 - x0 :] == 77).all()
    assert truth[3, 4] == truth[100, 199] == np.float32(BAD)


def test_subtracting_is_the_image_less_the_surface():
    image = field((80, 120))
    background, scratch = twins.finished(image, twins.settings(32))
    out, less = np.empty_like(image), image.copy()
    background.evaluate(whole(image.shape), out, scratch)
    background.subtract(whole(image.shape), less, scratch)
    np.testing.assert_array_equal(less, image - out)


def test_sep():
    sep = pytest.importorskip("sep")
    image = field((256, 320))
    image[100:110, 200:212] += 5000
    background, scratch = twins.finished(image, twins.settings(64))
    oracle = sep.Background(image, bw=64, bh=64, fw=3, fh=3)
    out = np.empty_like(image)
    background.evaluate(whole(image.shape), out, scratch)
    np.testing.assert_allclose(out, oracle.back(), rtol=1e-5)
    background.rms(whole(image.shape), out, scratch)
    np.testing.assert_allclose(out, oracle.rms(), rtol=1e-4)
    assert background.mean == pytest.approx(oracle.globalback, rel=1e-6)
    assert background.global_rms == pytest.approx(oracle.globalrms, rel=1e-6)


def test_manual_is_a_constant_with_the_rms_of_the_map():
    image = field((80, 120))
    image[0, 0] = BAD
    background, scratch = twins.finished(image, twins.settings(32, type="MANUAL", value=12.5))
    auto, _ = twins.finished(image, twins.settings(32))
    less, out = image.copy(), np.empty_like(image)
    background.subtract(whole(image.shape), less, scratch)
    background.evaluate(whole(image.shape), out, scratch)
    np.testing.assert_array_equal(less, image - np.float32(12.5))
    assert less[0, 0] == np.float32(BAD)
    assert (out == 12.5).all()
    assert (background.mean, background.global_rms) == (12.5, auto.global_rms)
    # The catalogue's BACKGROUND stays the map's.
    at = np.array([10.0]), np.array([20.0])
    assert background.at(*at) == auto.at(*at)


def test_catalogue_values_are_bilinear():
    image = field((100, 130))
    background, _ = twins.finished(image, twins.settings((32, 20)))
    nodes = background.back.astype(np.float64)
    x, y = (v.ravel().astype(np.float64) for v in np.meshgrid(np.arange(0, 129.5, 6.3), np.arange(0, 99.5, 5.1)))
    fx, fy = np.floor(x + 0.5) / 32 - 0.5, np.floor(y + 0.5) / 20 - 0.5
    i, j = (np.clip(np.floor(f), 0, n - 2).astype(int) for f, n in ((fx, 5), (fy, 5)))
    fx, fy = fx - i, fy - j
    truth = (1 - fy) * ((1 - fx) * nodes[j, i] + fx * nodes[j, i + 1])
    truth += fy * ((1 - fx) * nodes[j + 1, i] + fx * nodes[j + 1, i + 1])
    np.testing.assert_allclose(background.at(x, y), truth, rtol=1e-6)


@pytest.mark.parametrize("shape", [(20, 20), (20, 200), (200, 20)])
def test_catalogue_values_with_few_cells(shape):
    background, _ = twins.finished(field(shape), twins.settings(64, 1))
    centre = np.array([0.5 * shape[1]]), np.array([0.5 * shape[0]])
    assert background.back.min() <= background.at(*centre)[0] <= background.back.max()


def test_attaching_finds_the_finished_background():
    image = field((100, 130))
    background, scratch = twins.finished(image, twins.settings(32))
    buffer = np.zeros(Background.storage_bytes(background.grid), np.uint8)
    first = Background.on(buffer, background.grid)
    first.back[...], first.sigma[...] = twins.raw_maps(image, background.grid)
    first.complete(twins.settings(32), np.zeros(Background.complete_scratch_bytes(background.grid), np.uint8))
    second = Background.on(buffer.copy(), background.grid)
    a, b = image.copy(), image.copy()
    background.subtract(whole(image.shape), a, scratch)
    second.subtract(whole(image.shape), b, scratch)
    np.testing.assert_array_equal(a, b)
    assert (second.mean, second.global_rms) == (background.mean, background.global_rms)


def test_all_bad():
    background, _ = twins.finished(np.full((50, 50), BAD, np.float32), twins.settings(16))
    assert math.isnan(background.mean)
    assert math.isnan(background.global_rms)
