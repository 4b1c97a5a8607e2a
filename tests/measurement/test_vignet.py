"""VIGNET: against slicing, SExtractor, and itself in other storage."""

import numpy as np
import pytest
from astropy.io import fits
from scene_cutter import gaussian_image, sextractor_scene, synthetic_scene

from sextract.config.settings import PhotometrySettings
from sextract.records import BAD


def sliced(scene, i, width, height):
    """The cutout of source i, from a padded copy of what it sees."""
    s = scene.sources[i]
    seen = np.where(scene.masked & (scene.labels != scene.ids[i]), np.float32(BAD), scene.pixels)
    padded = np.pad(seen, 50, constant_values=BAD)
    x, y = int(s["x"] + 0.49999) + 50 - width // 2, int(s["y"] + 0.49999) + 50 - height // 2
    return padded[y : y + height, x : x + width]


@pytest.mark.parametrize("dims", [(15, 11), (8, 31), (1, 1)])
@pytest.mark.parametrize("arena_px", [1 << 20, 600])
def test_equals_a_slice(dims, arena_px):
    scene = synthetic_scene(3)
    found = scene.measure({"VIGNET": dims}, arena_px=arena_px)["VIGNET"]
    assert found.shape == (len(scene.sources), dims[1], dims[0]) and found.dtype == np.float32
    for i in range(len(found)):
        assert (found[i] == sliced(scene, i, *dims)).all()


def test_other_bad_pixels_all_read_the_same():
    scene = synthetic_scene(3)
    scene.pixels[50:60, 50:60] = -1e35
    found = scene.measure({"VIGNET": (99, 99)})["VIGNET"]
    assert (found[found < -1] >= np.float32(BAD)).all()


def test_a_row_and_a_pixel():
    scene = synthetic_scene(3)
    row, pixel = scene.measure({"VIGNET": (9,)})["VIGNET"], scene.measure({"VIGNET": ()})["VIGNET"]
    assert row.shape == (len(scene.sources), 9) and pixel.shape == (len(scene.sources),)
    assert (row[:, 4] == pixel).all()


def test_masks_follow_mask_type():
    scene = synthetic_scene(3)
    masked = scene.measure({"VIGNET": (25, 25)})["VIGNET"]
    photometry = PhotometrySettings(mask_type="NONE")
    bare = scene.measure({"VIGNET": (25, 25)}, photometry=photometry)["VIGNET"]
    assert (masked == np.float32(BAD)).sum() > (bare == np.float32(BAD)).sum()


def test_equal_to_sextractor(tmp_path):
    image, _ = gaussian_image(12, (160, 160), 30)
    fits.writeto(tmp_path / "im.fits", image + 50)
    scene = sextractor_scene(tmp_path, tmp_path / "im.fits", ["VIGNET(21,13)"], PhotometrySettings())
    if scene is None:
        pytest.skip("source-extractor isn't installed")
    found = scene.measure({"VIGNET": (21, 13)})["VIGNET"]
    assert len(found) > 10 and (found == scene.table["VIGNET"]).all()
