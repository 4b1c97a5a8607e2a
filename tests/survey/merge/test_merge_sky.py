"""Keys, partitions and rings of HEALPix pixels, at poles, corners of base pixels and right ascension 0, too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sextract.survey.merge import sky
from sextract.survey.merge.sky import ORDER, Pixel, keys_of, partition, ring_order, surroundings

pytest.importorskip("astropy_healpix", reason="astropy-healpix is not installed: pip install 'sextract[merge]'")


def positions(n=4000, seed=1):
    """All over the sky, in a cluster, at both poles, and at the corner of three base pixels."""
    rng = np.random.default_rng(seed)
    whole = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    cluster = rng.normal(0, 0.01, n) % 360, rng.normal(-5, 0.01, n)
    poles = rng.uniform(0, 360, n), np.repeat([1, -1], n // 2) * (90 - np.abs(rng.normal(0, 1e-3, n)))
    corner = rng.normal(90, 0.01, n), rng.normal(np.degrees(np.arcsin(2 / 3)), 0.01, n)
    return tuple(np.concatenate(each) for each in zip(whole, cluster, poles, corner, strict=True))


def test_what_is_no_position_has_no_key():
    keys = keys_of(np.array([10.0, np.nan, 10.0, np.inf, 370.0]), np.array([20.0, 0.0, 90.1, 0.0, 20.0]))
    assert (keys[1:4] == sky.NOWHERE).all()
    assert keys[0] >= 0 and keys[0] == keys[4]


@pytest.mark.parametrize("most", [1, 30, 1000, 10**6])
def test_partitions_are_the_coarsest_that_hold_no_more(most):
    keys = keys_of(*positions())
    keys[7] = sky.NOWHERE
    pixels = partition(lambda: (keys[k : k + 777] for k in range(0, len(keys), 777)), most)
    keys = np.sort(keys)

    def count(pixel):
        return np.searchsorted(keys, pixel.end) - np.searchsorted(keys, pixel.first)

    assert sum(pixel.rows for pixel in pixels) == len(keys) - 1
    assert all(a.end <= b.first for a, b in itertools.pairwise(pixels))
    for pixel in pixels:
        assert pixel.rows == count(pixel) > 0
        assert pixel.rows <= most or pixel.order == ORDER
        assert not pixel.order or count(Pixel(pixel.order - 1, pixel.number >> 2, 0)) > most


def test_more_rows_at_one_place_than_a_partition_may_have():
    keys = keys_of(np.full(50, 10.0), np.full(50, 20.0))
    assert partition(lambda: [keys], 10) == [Pixel(ORDER, int(keys[0]), 50)]
    assert partition(lambda: [keys[:0]], 10) == []


def within(keys, ranges):
    at = np.searchsorted(ranges[:, 0], keys, side="right") - 1
    return (at >= 0) & (keys < ranges[at, 1]) if len(ranges) else np.zeros(len(keys), bool)


def moved(ra, dec, distance_deg, rng):
    """Positions that far away, in any direction."""
    angle = rng.uniform(0, 2 * np.pi, len(ra))
    a, d, r = np.radians(ra), np.radians(dec), np.radians(distance_deg)
    new = np.arcsin(np.clip(np.sin(d) * np.cos(r) + np.cos(d) * np.sin(r) * np.cos(angle), -1, 1))
    step = np.arctan2(np.sin(angle) * np.sin(r) * np.cos(d), np.cos(r) - np.sin(d) * np.sin(new))
    return np.degrees(a + step) % 360, np.degrees(new)


@pytest.mark.parametrize("radius", [0.05, 1.0, 60.0])
@pytest.mark.parametrize("most", [3, 200])
def test_rings_hold_what_is_near(radius, most):
    rng = np.random.default_rng(2)
    ra, dec = positions(400)
    keys = keys_of(ra, dec)
    for pixel in partition(lambda: [keys], most)[::25]:
        around = surroundings(pixel, ring_order(pixel, radius / 3600), 2)
        own = np.array([[pixel.first, pixel.end]])
        ranges = np.concatenate([own, around.inner, around.outer])
        ranges = ranges[np.argsort(ranges[:, 0])]
        assert (ranges[1:, 0] >= ranges[:-1, 1]).all(), "something is in two of them"
        # Positions in the pixel and along its border, from those that others are just out of reach of.
        some = np.concatenate([keys[within(keys, own)], rng.integers(pixel.first, pixel.end, 200)])
        for _ in range(2):
            lon, lat = sky_of(some)
            near = keys_of(*moved(lon, lat, 0.999 * radius / 3600, rng))
            inner = np.concatenate([own, around.inner])
            inner = inner[np.argsort(inner[:, 0])]
            here = within(some, inner)
            assert within(near[here], ranges).all()
            if (some == near).all():
                break
            assert within(near[within(some, own)], inner).all()
            some = near


def sky_of(keys):
    from astropy_healpix import healpix_to_lonlat

    lon, lat = healpix_to_lonlat(keys, 1 << ORDER, order="nested")
    return lon.deg, lat.deg


def test_no_pixel_is_narrower_than_the_radius():
    # Every position at every order's scale: what is a radius away is in the pixel or its neighbours.
    from astropy_healpix import neighbours

    rng = np.random.default_rng(3)
    ra, dec = positions(3000, seed=4)
    for order in (3, 8, 14):
        radius = sky._SIZE_DEG / (1 << order) / sky._RADII
        near = keys_of(*moved(ra, dec, radius, rng)) >> 2 * (ORDER - order)
        pixels = keys_of(ra, dec) >> 2 * (ORDER - order)
        with np.errstate(invalid="ignore"):
            around = neighbours(pixels, 1 << order, order="nested")
        assert ((around == near).any(axis=0) | (pixels == near)).all()
