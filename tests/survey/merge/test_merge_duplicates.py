"""The rule of duplicates is that of the whole sky at once, however it is divided."""

from __future__ import annotations

import numpy as np
import pytest

from sextract.errors import ConfigError, LimitError
from sextract.survey.merge.duplicates import RECORD, Frame, Rule, best_first, describe, frame_of, source_ids
from sextract.survey.merge.scratch import Sorted
from sextract.survey.merge.sky import keys_of, partition
from tests.survey.merge.surveys import rows_at

pytest.importorskip("astropy_healpix", reason="astropy-healpix is not installed: pip install 'sextract[merge]'")

ROOM = 1 << 30


def records_at(ra, dec, ids, serious=0, edge=0.0, snr=0.0):
    """Records in the order of partitions."""
    out = np.zeros(len(ra), RECORD)
    out["key"], out["id"] = keys_of(np.asarray(ra, float), np.asarray(dec, float)), ids
    out["serious"], out["edge"], out["snr"] = serious, edge, snr
    a, d = np.radians(ra), np.radians(dec)
    out["x"], out["y"], out["z"] = np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)
    return out[np.argsort(out["key"], kind="stable")]


def by_all_pairs(records, radius):
    """The rule word by word, over all pairs: the id of each source's primary."""
    frame = frame_of(records["id"])
    apart = 2 * np.sin(np.radians(radius / 3600) / 2)
    xyz = np.stack([records[a] for a in "xyz"], axis=1)
    order = sorted(
        range(len(records)),
        key=lambda k: (records["serious"][k], -records["edge"][k], -records["snr"][k], records["id"][k]),
    )
    primary: list[int] = []
    for k in order:
        others = [p for p in primary if frame[p] != frame[k]]
        if not (((xyz[others] - xyz[k]) ** 2).sum(axis=1) <= apart**2).any():
            primary.append(k)
    out = records["id"].copy()
    first = {k: place for place, k in enumerate(order)}
    for k in set(order) - set(primary):
        others = [p for p in primary if frame[p] != frame[k]]
        squares = ((xyz[others] - xyz[k]) ** 2).sum(axis=1)
        out[k] = records["id"][min(zip(squares, (first[p] for p in others), others, strict=True))[2]]
    return out


def by_partitions(records, radius, most, folder, room=ROOM):
    """The same by partitions of so many rows."""
    pixels = partition(lambda: [records["key"]], most)
    gathered = Sorted(str(folder), [pixel.rows for pixel in pixels])
    start = 0
    for k, pixel in enumerate(pixels):
        gathered.write(k, 0, records[start : start + pixel.rows])
        start += pixel.rows
    for k in range(len(pixels)):
        gathered.sort(k)
    rule = Rule(radius, gathered.within, room)
    found = {}
    for k, pixel in enumerate(pixels):
        own = gathered.read(k)
        found.update(zip(own["id"].tolist(), rule.primaries(pixel, own).tolist(), strict=True))
    gathered.close()
    return np.array([found[i] for i in records["id"].tolist()])


PLACES = {"right ascension 0": (0.0, 0.0), "north pole": (40.0, 90.0), "south pole": (0.0, -90.0), "corner": (90.0, 41.8103149)}


def crowd(place, n, spread_arcsec, frames, seed):
    """Sources of some frames around a place, in pairs that agree to half an arcsecond, with many ties of quality."""
    rng = np.random.default_rng(seed)
    a0, d0 = np.radians(place)
    true = rng.normal(0, spread_arcsec, (n, 2)) / 206265
    u, v = (np.repeat(true, frames, axis=0) + rng.normal(0, 0.3 / 206265, (n * frames, 2))).T
    centre = np.array([np.cos(d0) * np.cos(a0), np.cos(d0) * np.sin(a0), np.sin(d0)])
    east = np.array([-np.sin(a0), np.cos(a0), 0])
    north = np.cross(centre, east)
    p = centre + u[:, None] * east + v[:, None] * north
    ra, dec = np.degrees(np.arctan2(p[:, 1], p[:, 0])) % 360, np.degrees(np.arctan2(p[:, 2], np.hypot(p[:, 0], p[:, 1])))
    ids = np.concatenate([source_ids(image, 1 + image % 2, np.arange(1, n + 1)) for image in range(1, frames + 1)])
    ids = ids.reshape(frames, n).T.ravel()
    quality = {name: rng.integers(0, most, n * frames) for name, most in (("serious", 2), ("edge", 5), ("snr", 3))}
    return records_at(ra, dec, ids, **quality)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("spread", "frames"), [(300.0, 2), (6.0, 4), (2.0, 9)])
def test_as_over_all_pairs(place, spread, frames, tmp_path):
    records = crowd(place, 50, spread, frames, seed=frames)
    for radius in (0.4, 1.5):
        expected = by_all_pairs(records, radius)
        assert (expected != records["id"]).any()
        for most in (4, 40, 10**6):
            np.testing.assert_array_equal(by_partitions(records, radius, most, tmp_path), expected)


def test_a_long_chain_is_decided_from_its_end(tmp_path):
    # Each is better than its neighbour to the right and within its radius: what the last one is depends on the first.
    n = 301
    ra = 10 + np.arange(n) * 0.9 / 3600
    ids = np.concatenate([source_ids(1 + k % 2, 1, np.array([k + 1])) for k in range(n)])
    records = records_at(ra, np.zeros(n), ids, edge=np.arange(n)[::-1])
    expected = by_all_pairs(records, 1.0)
    assert np.count_nonzero(expected == records["id"]) == 151
    for most in (1, 5, 1000):
        np.testing.assert_array_equal(by_partitions(records, 1.0, most, tmp_path), expected)


def test_sources_of_one_frame_stay_apart(tmp_path):
    ids = np.concatenate([source_ids(1, 1, np.array([1, 2])), source_ids(2, 1, np.array([1, 2]))])
    tiny = 0.1 / 3600
    records = records_at([10.0, 10.0 + tiny, 10.0, 10.0 + tiny], np.zeros(4), ids)
    found = dict(zip(records["id"].tolist(), by_partitions(records, 1.0, 100, tmp_path).tolist(), strict=True))
    assert found == {int(ids[0]): ids[0], int(ids[1]): ids[1], int(ids[2]): ids[0], int(ids[3]): ids[1]}


def test_the_same_place_many_times(tmp_path):
    n = 200
    ids = np.array([int(source_ids(k, 1, np.array([1]))[0]) for k in range(1, n + 1)])
    records = records_at(np.full(n, 77.0), np.full(n, -30.0), ids, snr=np.arange(n))
    assert set(by_partitions(records, 1.0, 10, tmp_path)) == {ids[-1]}


def test_order_of_quality():
    ids = source_ids(3, 1, np.arange(1, 7))
    records = np.zeros(6, RECORD)
    records["id"] = ids[::-1]
    records["serious"] = [1, 0, 0, 0, 0, 0]
    records["edge"] = [9, 5, 5, -np.inf, 5, 5]
    records["snr"] = [9, 1, 1, 9, -np.inf, 2]
    assert best_first(records).tolist() == [5, 2, 1, 4, 3, 0]


def test_what_sources_are_compared_by():
    rows = rows_at([0.0] * 4, [0.0] * 4, FLAGS=[3, 4, 12, 16], SNR_WIN=[5, np.nan, 7, 8])
    rows["X_IMAGE"], rows["Y_IMAGE"] = [10, 95, 50, np.nan], [50, 50, 3, 50]
    out = np.zeros(4, RECORD)
    describe(rows, Frame(100, 80), out)
    assert out["serious"].tolist() == [0, 1, 2, 1]
    assert out["snr"].tolist() == [5, -np.inf, 7, 8]
    assert out["edge"].tolist() == [9.5, 5.5, 2.5, -np.inf]
    describe(rows, Frame(0, 0), out)
    assert (out["edge"] == -np.inf).all()


def test_no_radius_no_duplicates(tmp_path):
    records = crowd((10.0, 10.0), 20, 3.0, 3, seed=1)
    np.testing.assert_array_equal(by_partitions(records, 0.0, 10, tmp_path), records["id"])


def test_a_radius_that_makes_no_sense():
    for radius in (-1.0, 61.0, np.nan):
        with pytest.raises(ConfigError, match="--merge-radius"):
            Rule(radius, lambda ranges: np.zeros(0, RECORD), ROOM)


def test_too_many_at_one_place_for_the_memory(tmp_path):
    records = crowd((10.0, 10.0), 50, 3.0, 4, seed=1)
    with pytest.raises(LimitError, match=r"200 sources must be compared at once.*raise --mem-limit by 1M"):
        by_partitions(records, 1.0, 20, tmp_path, room=1000)
