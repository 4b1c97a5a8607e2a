"""The contract of image sources, kept by each reader."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits

from sextract.reading import open_images
from sextract.records import BAD
from tests.contracts.image_source import ImageSourceContract


class Scene(ImageSourceContract):
    @pytest.fixture
    def stored(self):
        stored = np.random.default_rng(11).integers(0, 9000, (61, 83)).astype("i2")
        stored[30:33, 40:44] = 7
        return stored

    @pytest.fixture
    def truth(self, stored):
        value = stored.astype("f4") * np.float32(0.1) + np.float32(5.3)
        return np.where(stored == 7, np.float32(BAD), value)


SCALING = {"BSCALE": 0.1, "BZERO": 5.3, "BLANK": 7}


class TestPlain(Scene):
    @pytest.fixture
    def source(self, stored, write, tools):
        return open_images(write(tools.hdu_bytes(stored, 16, [tools.card(*c) for c in SCALING.items()])))[0]


class TestGz(Scene):
    @pytest.fixture
    def source(self, stored, write, tools, tmp_path):
        data = tools.hdu_bytes(stored, 16, [tools.card(*c) for c in SCALING.items()])
        return open_images(write(gzip.compress(data), "a.fits.gz"), scratch_dir=str(tmp_path))[0]


class TestCompressed(Scene):
    @pytest.fixture(params=["RICE_1", "HCOMPRESS_1"])
    def source(self, stored, tmp_path, request):
        path = str(tmp_path / "a.fits.fz")
        packed = fits.CompImageHDU(stored, compression_type=request.param, tile_shape=(16, 32))
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
        with fits.open(path, "update", disable_image_compression=True) as hdus:
            hdus[1].header.update(SCALING)
        return open_images(path)[0]
