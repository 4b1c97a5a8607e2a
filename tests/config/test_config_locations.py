"""Addresses of images: what the files are called, and what may be shown."""

from __future__ import annotations

import pytest

from sextract.config.locations import file_name, is_pair, is_url, shown
from sextract.config.outputs import stem_of


@pytest.mark.parametrize(
    ("image", "name", "told"),
    [
        ("s3://bucket/night/a.fits", "a.fits", None),
        ("s3://bucket/what?/a#1.fits", "a#1.fits", None),
        ("s3://key:word@bucket/a.fits", "a.fits", "s3://bucket/a.fits"),
        ("https://h/p/a.fits?X-Amz-Signature=b/c.fits", "a.fits", "https://h/p/a.fits?…"),
        ("https://u:p@h:80/a%20b.fits#top", "a b.fits", "https://h:80/a%20b.fits#top"),
        ("http://h/..%2F..%2Fa.fits", "a.fits", None),
        ("http://[::1]:80/a.fits", "a.fits", None),
        ("ftp://u:p@h/a.fits.gz", "a.fits.gz", "ftp://h/a.fits.gz"),
    ],
)
def test_addresses(image, name, told):
    assert is_url(image)
    assert file_name(image) == name
    assert shown(image) == (told or image)
    assert shown(f"{image}[SCI,2]") == f"{told or image}[SCI,2]"
    assert not is_pair(image)


@pytest.mark.parametrize("image", ["a.fits", "d/a.fits[2]", "file:///d/a.fits", "a://", "C:/a.fits", "1://a"])
def test_files(image):
    assert is_url(image) == (image == "a://")
    assert shown(image) == image


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        ("https://h/p/a.fits?sig=x/y.fits[SCI]", "a"),
        ("s3://b/k/a.fits.fz[1]", "a"),
        ("file:///d/a.fit", "a"),
        ("https://h/get?name=a.fits", "get"),
        ("d/a.fits.gz", "a"),
    ],
)
def test_stems(image, stem):
    assert stem_of(image) == stem


@pytest.mark.parametrize(
    ("image", "pair"),
    [
        ("a.fits,b.fits", True),
        ("a.fits[SCI,2]", False),
        ("s3://b/a,2.fits", False),
        ("https://h/a.fits?list=1,2", False),
        ("s3://b/a.fits[1],s3://b/c.fits", True),
    ],
)
def test_pairs(image, pair):
    assert is_pair(image) == pair
