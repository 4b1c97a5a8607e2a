"""LOCAL background: the frame around a source, by brute force and against SExtractor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scene_cutter import Scene, sextractor_scene, synthetic_scene

from sextract.background.mesh import SCRATCH_BYTES, cell_statistics, mesh_grid
from sextract.config.settings import BackgroundSettings, PhotometrySettings
from sextract.measurement import local as family
from sextract.records import BAD

LOCAL = PhotometrySettings(backphoto_type="LOCAL", backphoto_thick=9)


def run(scene: Scene, photometry: PhotometrySettings = LOCAL, **options) -> np.ndarray:
    batch = scene.batch([], photometry=photometry, **options)
    family.local(batch)
    np.testing.assert_array_equal(batch.sources["dbkg"], batch[family.LOCAL_BACKGROUND])
    return batch[family.LOCAL_BACKGROUND]


def mode(values: np.ndarray) -> float:
    """The background of a cell that holds these pixels."""
    if not len(values):
        return 0.0
    n = len(values)
    out = np.empty((2, 1), np.float32)
    cell_statistics(
        values.astype(np.float32)[None],
        mesh_grid(n, 1, BackgroundSettings(size=(n, 1))),
        0,
        out[0],
        out[1],
        np.zeros(SCRATCH_BYTES, np.uint8),
    )
    return float(out[0, 0])


def brute_force(scene: Scene, thick: int) -> np.ndarray:
    height, width = scene.pixels.shape
    out = []
    for s in scene.sources:
        sizes = int(s["xmax"] - s["xmin"] + 1), int(s["ymax"] - s["ymin"] + 1)
        gap = [n // 4 if n < m // 2 else (m - n) // 4 for n, m in zip(sizes, (width, height), strict=True)]
        x0, x1, y0, y1 = s["xmin"] - gap[0], s["xmax"] + 1 + gap[0], s["ymin"] - gap[1], s["ymax"] + 1 + gap[1]
        if min(x0, y0) < thick or x1 + thick >= width or y1 + thick >= height:
            out.append(0.0)
            continue
        around = np.zeros(scene.pixels.shape, bool)
        around[y0 - thick : y1 + thick, x0 - thick : x1 + thick] = True
        around[y0:y1, x0:x1] = False
        around &= ~(scene.masked & (scene.labels != s["number"])) & (scene.pixels > BAD / 10)
        out.append(mode(scene.pixels[around]))
    return np.array(out, np.float32)


def sloped() -> Scene:
    scene = synthetic_scene(seed=3, count=50)
    y, x = np.mgrid[: scene.pixels.shape[0], : scene.pixels.shape[1]]
    scene.pixels += (0.05 * x + 0.1 * y).astype(np.float32)
    scene.pixels[90:110, 30:90] = BAD
    return scene


@pytest.mark.parametrize("thick", [1, 9, 24])
def test_brute_force(thick):
    scene = sloped()
    got = run(scene, replace(LOCAL, backphoto_thick=thick))
    np.testing.assert_array_equal(got, brute_force(scene, thick))
    assert (got != 0).sum() > 20
    assert (got == 0).any()


def test_a_frame_without_pixels_gives_nothing():
    scene = sloped()
    s = scene.sources[np.argmin(np.hypot(scene.sources["x"] - 120, scene.sources["y"] - 100))]
    keep = slice(s["ymin"], s["ymax"] + 1), slice(s["xmin"], s["xmax"] + 1)
    own = scene.pixels[keep].copy()
    scene.pixels[...] = BAD
    scene.pixels[keep] = own
    assert run(scene)[list(scene.sources["number"]).index(s["number"])] == 0


def test_global_gives_nothing():
    assert (run(sloped(), PhotometrySettings()) == 0).all()


def test_a_source_over_half_of_the_image():
    scene = sloped()
    scene.sources = scene.sources[:1].copy()
    scene.ids = scene.ids[:1]
    scene.sources["xmin"], scene.sources["xmax"], scene.sources["ymin"], scene.sources["ymax"] = 50, 189, 95, 104
    got = run(scene)
    assert got != 0
    np.testing.assert_array_equal(got, brute_force(scene, 9))


@pytest.mark.parametrize("arena_px", [1 << 22, 6000, 2000])
def test_same_bits_for_any_batch_and_arena(arena_px):
    scene = sloped()
    truth = run(scene)
    np.testing.assert_array_equal(run(scene, arena_px=arena_px), truth)
    order = np.random.default_rng(1).permutation(len(truth))
    np.testing.assert_array_equal(run(scene, index=order, arena_px=arena_px), truth[order])
    for k in (0, 7):
        assert run(scene, index=[k], arena_px=arena_px) == truth[k]


def test_reach_holds_the_frame():
    scene = sloped()
    s = scene.sources
    hx, hy = family.reach(s, LOCAL)
    around = family.frames(family.boxes(s), scene.frame.width, scene.frame.height, LOCAL.backphoto_thick)
    assert (np.floor(s["x"] - hx) <= around[:, 0]).all()
    assert (np.ceil(s["x"] + hx) >= around[:, 2] - 1).all()
    assert (np.floor(s["y"] - hy) <= around[:, 1]).all()
    assert (np.ceil(s["y"] + hy) >= around[:, 3] - 1).all()
    assert not np.any(family.reach(s, PhotometrySettings()))


@pytest.mark.parametrize("mask", ["NONE", "CORRECT"])
def test_sextractor(tmp_path, mask):
    fitsio = pytest.importorskip("fitsio")
    # Isolated sources on a slope: nothing that the scan has yet to see lies in a frame.
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:300, :300]
    image = rng.normal(50, 3, (300, 300)) + 0.2 * x + 8 * np.sin(y / 20)
    for cy in range(50, 260, 65):
        for cx in range(50, 260, 65):
            image += rng.uniform(200, 2000) * np.exp(-((x - cx) ** 2 / 12 + (y - cy - cx / 20) ** 2 / 7))
    fitsio.write(tmp_path / "im.fits", image.astype(np.float32))
    photometry = replace(LOCAL, mask_type=mask)
    keywords = {"BACKPHOTO_THICK": 9, "DETECT_THRESH": 8, "BACK_SIZE": 100}
    got = [
        sextractor_scene(tmp_path, tmp_path / "im.fits", [], photometry, BACKPHOTO_TYPE=t, **keywords)
        for t in ("LOCAL", "GLOBAL")
    ]
    if got[0] is None or got[1] is None:
        pytest.skip("SExtractor is not installed")
    truth = got[0].sources["bkg"].astype(np.float64) - got[1].sources["bkg"]
    ours = run(got[0], photometry)
    assert len(truth) >= 16
    assert (np.abs(truth) > 0.05).sum() >= 12
    np.testing.assert_allclose(ours, truth, atol=2e-5)
