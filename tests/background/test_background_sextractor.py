"""Every background image of SExtractor, bit for bit, where the program is installed."""

from __future__ import annotations

import shutil
import subprocess

import background_twins as twins
import fitsio
import numpy as np
import pytest

from sextract.records import BAD, Box

PROGRAM = shutil.which("source-extractor") or shutil.which("sex")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="SExtractor is not installed")

CHECKS = ("MINIBACKGROUND", "MINIBACK_RMS", "BACKGROUND", "BACKGROUND_RMS", "-BACKGROUND")


def sextractor(folder, image, **keywords):
    """Its background images and its BACKGROUND column with positions."""
    fitsio.write(folder / "im.fits", image, clobber=True)
    (folder / "p.param").write_text("X_IMAGE_DBL\nY_IMAGE_DBL\nBACKGROUND\n")
    (folder / "empty.sex").write_text("")
    words = {
        "PARAMETERS_NAME": "p.param",
        "FILTER": "N",
        "DETECT_THRESH": 3,
        "CATALOG_TYPE": "FITS_1.0",
        "CATALOG_NAME": "o.cat",
        "VERBOSE_TYPE": "QUIET",
        "CHECKIMAGE_TYPE": ",".join(CHECKS),
        "CHECKIMAGE_NAME": ",".join(f"{k}.fits" for k in range(len(CHECKS))),
        **keywords,
    }
    options = [
        w for k, v in words.items() for w in (f"-{k}", ",".join(map(str, v)) if isinstance(v, tuple) else str(v))
    ]
    subprocess.run([str(PROGRAM), "im.fits", "-c", "empty.sex", *options], cwd=folder, check=True, capture_output=True)
    images = {name: fitsio.read(folder / f"{k}.fits") for k, name in enumerate(CHECKS)}
    return images, fitsio.read(folder / "o.cat", ext="OBJECTS") if len(image) > 8 else None


def compare(tmp_path, image, size, box, threshold=0.0, **manual):
    keywords = {"BACK_SIZE": size, "BACK_FILTERSIZE": box, "BACK_FILTTHRESH": threshold}
    if manual:
        keywords |= {"BACK_TYPE": "MANUAL", "BACK_VALUE": manual["value"]}
    truth, table = sextractor(tmp_path, image, **keywords)
    ours = np.where(np.isfinite(image), image, np.float32(BAD))
    chosen = twins.settings(size, box, filter_thresh=threshold, type="MANUAL" if manual else "AUTO", **manual)
    background, scratch = twins.finished(ours, chosen)
    np.testing.assert_array_equal(background.back, truth["MINIBACKGROUND"])
    np.testing.assert_array_equal(background.sigma, truth["MINIBACK_RMS"])
    whole, out, less = Box(0, 0, *image.shape), np.empty_like(ours), ours.copy()
    background.evaluate(whole, out, scratch)
    np.testing.assert_array_equal(out, truth["BACKGROUND"])
    background.rms(whole, out, scratch)
    np.testing.assert_array_equal(out, truth["BACKGROUND_RMS"])
    background.subtract(whole, less, scratch)
    np.testing.assert_array_equal(less, truth["-BACKGROUND"])
    if table is not None:
        np.testing.assert_array_equal(
            background.at(table["X_IMAGE_DBL"] - 1, table["Y_IMAGE_DBL"] - 1), table["BACKGROUND"]
        )


def field(shape, seed=1):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(200, 5, shape) + 40 * np.sin(x / 30) * np.cos(y / 25)
    for _ in range(image.size // 500):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        near = slice(max(int(cy) - 8, 0), int(cy) + 9), slice(max(int(cx) - 8, 0), int(cx) + 9)
        image[near] += rng.exponential(300) * np.exp(-((y[near] - cy) ** 2 + (x[near] - cx) ** 2) / 5)
    return image.astype(np.float32)


@pytest.mark.parametrize(
    ("size", "box", "threshold"),
    [(64, 3, 0.0), (32, 1, 0.0), ((50, 33), (5, 3), 0.0), ((7, 9), 3, 2.0), (8, (2, 4), 0.0)],
)
def test_field(tmp_path, size, box, threshold):
    compare(tmp_path, field((260, 330)), size, box, threshold)


def test_counts(tmp_path):
    compare(tmp_path, np.round(field((200, 200))), 32, 3)


def test_far_from_zero(tmp_path):
    # Digits of the variance are lost here, the same ones only in the same order.
    compare(tmp_path, np.random.default_rng(2).normal(1e6, 2, (200, 200)).astype(np.float32), 32, 1)


def test_manual(tmp_path):
    compare(tmp_path, field((200, 200)), 32, 3, value=123.4)


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (65, 65), (64, 130), (200, 64), (100, 128), (10, 10), (2, 1)])
@pytest.mark.parametrize("size", [64, 37, 5])
def test_shapes(tmp_path, shape, size):
    compare(tmp_path, np.random.default_rng(4).normal(100, 10, shape).astype(np.float32), size, 3)


@pytest.mark.parametrize("bad", [0.1, 0.5, 0.9, 0.97])
def test_bad_cells(tmp_path, bad):
    rng = np.random.default_rng(5)
    image = rng.normal(100, 10, (160, 240)).astype(np.float32) + 3 * np.arange(240, dtype=np.float32)
    image[np.kron(rng.random((20, 30)) < bad, np.ones((8, 8), bool))] = np.nan
    image[rng.random(image.shape) < 0.2] = np.nan
    compare(tmp_path, image, 8, 3)


def test_constant(tmp_path):
    compare(tmp_path, np.full((100, 100), 1234.567, np.float32), 32, 3)


def test_wide(tmp_path):
    rng = np.random.default_rng(6)
    image = (rng.normal(100, 10, (100, 20000)) + 3 * (np.arange(100) % 64)[:, None]).astype(np.float32)
    image[1:64:2, 640:704] = np.nan
    image[5, 1280] = np.nan
    compare(tmp_path, image, 64, 3)
