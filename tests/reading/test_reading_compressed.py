"""Tile-compressed images: the same pixels as uncompressed, whatever the algorithm, the box and the scratch."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from sextract.errors import InputError
from sextract.reading import open_images
from sextract.reading.datasum import datasum
from sextract.records import BAD, Box

ALGORITHMS = ["RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1"]


def integers(dtype: str) -> np.ndarray:
    values = np.random.default_rng(5).integers(0, 200, (70, 90)).astype(dtype)
    values[3, 4:9] = 7
    return values


def write_pair(tmp_path, data: np.ndarray, algorithm: str, tile: tuple[int, int] | None = None, **keys) -> list[str]:
    """The same image plain and compressed."""
    header = fits.Header(list(keys.items()))
    packed = fits.CompImageHDU(data, header, compression_type=algorithm, tile_shape=tile, quantize_level=0.0)
    paths = [str(tmp_path / "plain.fits"), str(tmp_path / "packed[1]+2.fits.fz")]
    fits.PrimaryHDU(data, header).writeto(paths[0])
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(paths[1])
    return paths


# PLIO can't hold the negative numbers that stored unsigned 16-bit values are.
PAIRS = [(a, d) for a in ALGORITHMS for d in ("u1", "i2", "i4", "u2") if (a, d) != ("PLIO_1", "u2")]


@pytest.mark.parametrize(("algorithm", "dtype"), PAIRS)
@pytest.mark.parametrize("tile", [None, (16, 32)])
def test_integers_are_as_uncompressed(tmp_path, tools, algorithm, dtype, tile):
    plain, packed = (open_images(p)[0] for p in write_pair(tmp_path, integers(dtype), algorithm, tile))
    truth, _ = tools.read_all(plain)
    for scratch_bytes in (64, 1000, 1 << 16):
        out, bad = tools.read_all(packed, scratch_bytes)
        np.testing.assert_array_equal(out, truth)
        assert bad == 0
    if tile:
        assert packed.tile_rows == 16


@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_1"])
def test_scaled_integers_with_blank(tmp_path, tools, algorithm):
    plain, packed = write_pair(tmp_path, integers("i2"), algorithm)
    for path in (plain, packed):
        with fits.open(path, "update", do_not_scale_image_data=True, disable_image_compression=True) as hdus:
            hdus[-1].header.update(BSCALE=0.1, BZERO=5.3, BLANK=7)
    truth, bad = tools.read_all(open_images(plain)[0])
    out, count = tools.read_all(open_images(packed)[0])
    np.testing.assert_array_equal(out, truth)
    assert count == bad == np.count_nonzero(integers("i2") == 7)
    assert (out[3, 4:9] == np.float32(BAD)).all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_lossless_floats(tmp_path, tools, dtype):
    data = np.random.default_rng(6).normal(100, 5, (50, 60)).astype(dtype)
    data[4, 5], data[6, 7] = np.nan, np.inf
    plain, packed = write_pair(tmp_path, data, "GZIP_2")
    truth, bad = tools.read_all(open_images(plain)[0])
    out, count = tools.read_all(open_images(packed)[0])
    np.testing.assert_array_equal(out, truth)
    assert count == bad == 2


@pytest.mark.parametrize("algorithm", ["RICE_1", "HCOMPRESS_1", "GZIP_1"])
@pytest.mark.parametrize("method", [-1, 1, 2])
def test_quantised_floats_as_astropy_decodes_them(tmp_path, tools, algorithm, method):
    data = np.random.default_rng(7).normal(100, 5, (64, 64)).astype("f4")
    if algorithm != "HCOMPRESS_1":
        data[4, 5:8] = np.nan
    path = tmp_path / "image.fits.fz"
    packed = fits.CompImageHDU(
        data, compression_type=algorithm, quantize_level=16, quantize_method=method, dither_seed=33
    )
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
    truth = fits.getdata(path, 1).astype("f4")
    out, bad = tools.read_all(open_images(str(path))[0])
    assert bad == np.count_nonzero(np.isnan(data))
    assert (out[np.isnan(data)] == np.float32(BAD)).all()
    good = np.isfinite(data)
    np.testing.assert_allclose(out[good], truth[good], rtol=1e-6)
    assert np.abs(out[good] - data[good]).max() < 1


def test_boxes_off_the_tile_grid(tmp_path, tools):
    data = integers("i4")
    _, path = write_pair(tmp_path, data, "RICE_1", (16, 32))
    (source,) = open_images(path)
    scratch = np.zeros(3000, np.uint8)
    for box in (Box(0, 0, 1, 1), Box(15, 31, 17, 33), Box(5, 3, 66, 88), Box(69, 89, 70, 90)):
        out = np.zeros((70, 95), "f4")[: box.shape[0], : box.shape[1]]
        assert source.read_into(box, out, scratch) == 0
        np.testing.assert_array_equal(out, data[box.y0 : box.y1, box.x0 : box.x1])


def test_header_is_the_images_own(tmp_path):
    keys = {"GAIN": 2.5, "OBJECT": "M 1", "CTYPE1": "RA---TAN"}
    plain, packed = write_pair(tmp_path, integers("i2"), "RICE_1", None, **keys)
    with fits.open(packed, "update", disable_image_compression=True) as hdus:
        hdus[1].header["EXTNAME"] = "CCD1"
    (source,) = open_images(packed)
    info = source.info
    ours = fits.Header.fromstring(info.header)
    assert {k: ours[k] for k in keys} == keys
    assert (ours["BITPIX"], ours["NAXIS"], ours["NAXIS1"], ours["NAXIS2"]) == (16, 2, 90, 70)
    extra = set(ours) - set(fits.getheader(plain)) - {"XTENSION", "PCOUNT", "GCOUNT", "EXTNAME"}
    assert not extra
    assert (info.extname, info.hdu, info.ext_number) == ("CCD1", 1, 1)
    assert (info.bitpix, info.width, info.height) == (16, 90, 70)
    assert open_images(packed + "[ccd1]")[0].info.hdu == 1
    assert info.primary_header.startswith("SIMPLE")


def test_a_cubes_first_plane(tmp_path, tools):
    cube = np.arange(3 * 20 * 30).reshape(3, 20, 30).astype("i4")
    path = tmp_path / "cube.fits.fz"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(cube, compression_type="RICE_1")]).writeto(path)
    np.testing.assert_array_equal(tools.read_all(open_images(str(path))[0])[0], cube[0])


def test_plain_and_compressed_extensions_are_numbered_together(tmp_path):
    path = tmp_path / "mixed.fits"
    data = integers("i2")
    fits.HDUList([fits.PrimaryHDU(data), fits.CompImageHDU(data), fits.ImageHDU(data)]).writeto(path)
    infos = [s.info for s in open_images(str(path))]
    assert [(i.hdu, i.ext_number) for i in infos] == [(0, 1), (1, 2), (2, 3)]


def test_damage_is_an_input_error(tmp_path, tools):
    _, path = write_pair(tmp_path, integers("i2"), "GZIP_1")
    with open(path, "r+b") as file:
        whole = file.read()
        (info,) = (s.info for s in open_images(path))
        file.seek(info.data_offset + 70 * 8)
        file.write(bytes(2000))
    (source,) = open_images(path)
    with pytest.raises(InputError, match="can't decode rows") as caught:
        tools.read_all(source)
    assert "\n" not in str(caught.value)
    with open(path, "wb") as file:
        file.write(whole[: info.data_offset + 300])
    with pytest.raises(InputError, match="cut short"):
        open_images(path)


def test_datasum_is_of_the_table_as_stored(tmp_path):
    _, path = write_pair(tmp_path, integers("i2"), "RICE_1")
    (source,) = open_images(path)
    with fits.open(path, disable_image_compression=True) as hdus:
        hdus[1].add_datasum()
        truth = int(hdus[1].header["DATASUM"])
    assert datasum(source, np.zeros(1001, np.uint8)) == truth
