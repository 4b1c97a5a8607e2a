"""CLEAN against a twin that looks at every pair: who eats whom, what is merged, which pixels are seen again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sextract.deblending._clean import ENTRY_BYTES, Cleaner
from sextract.records import FRAGMENT, SOURCE


def field(seed: int, n: int, width: int, height: int, sizes: tuple[float, float] = (0.6, 3.0)) -> tuple[Any, Any]:
    """Sources in closing order with some bright ones among many faint, and their fragments."""
    rng = np.random.default_rng(seed)
    s = np.zeros(n, SOURCE)
    s["x"], s["y"] = rng.uniform(0, width - 1, n), rng.uniform(0, height - 1, n)
    s["a"] = rng.uniform(*sizes, n) * np.where(rng.random(n) < 0.03, 4, 1)
    s["b"] = s["a"] * rng.uniform(0.3, 1, n)
    angle = rng.uniform(0, np.pi, n)
    c, t, aa, bb = np.cos(angle), np.sin(angle), s["a"] ** -2.0, s["b"] ** -2.0
    s["cxx"], s["cyy"], s["cxy"] = aa * c * c + bb * t * t, aa * t * t + bb * c * c, 2 * c * t * (aa - bb)
    s["npix"] = np.maximum(4 * math.pi * s["a"] * s["b"], 5)
    s["dthresh"], s["abcor"] = 1.5, rng.uniform(0.3, 1, n)
    s["fdflux"] = s["npix"] * rng.exponential(4, n) * np.where(rng.random(n) < 0.1, 300, 1) + 5
    # Some of exactly the same flux.
    s["fdflux"][::7] = s["fdflux"][0]
    s["fdpeak"], s["peak"] = s["fdflux"] / s["npix"] * 2, s["fdflux"] / s["npix"] * rng.uniform(1, 3, n)
    s["mthresh"] = rng.uniform(0.01, 2, n)
    s["flux_iso"], s["var_iso"] = s["fdflux"] * rng.uniform(0.9, 1.1, n), s["npix"]
    s["flags"] = rng.choice([0, 1, 2, 3, 4, 8, 16 | 2, 64], n)
    for axis, size in (("x", width), ("y", height)):
        s[f"{axis}min"] = np.clip(s[axis] - 2 * s["a"], 0, size - 1)
        s[f"{axis}max"] = np.clip(s[axis] + 2 * s["a"], 0, size - 1)
        s[f"{axis}peak"] = s[axis]
    s["row"] = s["ymax"] + 1
    s = s[np.argsort(s["row"], kind="stable")]
    fragments = []
    for one in s:
        one["fragments"] = len(fragments) * FRAGMENT.itemsize
        fragments += [(y, one["xmin"], one["xmax"] + 1) for y in range(one["ymin"], one["ymax"] + 1)]
        one["nfragments"] = one["ymax"] - one["ymin"] + 1
    return s, np.array(fragments, FRAGMENT)


@dataclass
class CleanTwin:
    """Takes sources one by one, each compared with all before it."""

    beta: float
    reach: int
    lag: int

    def wing(self, s: Any, dx: float, dy: float) -> float:
        """The Moffat profile of a source at an offset, where it has one."""
        area = math.pi * float(s["a"]) * float(s["b"])
        amplitude = float(s["fdflux"]) / (2 * area * float(s["abcor"]))
        alpha = ((amplitude / float(s["dthresh"])) ** (1 / self.beta) - 1) * area / int(s["npix"])
        r2 = float(s["cxx"]) * dx * dx + float(s["cyy"]) * dy * dy + float(s["cxy"]) * dx * dy
        value = 1 + alpha * r2
        return amplitude * value**-self.beta if 1 < value < 1e10 else -1.0

    def clean(self, sources: Any, fragments: Any) -> tuple[Any, list[int], list[Any]]:
        """The table afterwards, the eater of each source (−1: none), fragments freed."""
        s, eater, freed = sources.copy(), [-1] * len(sources), []

        def merge(victim: int, into: int, line: int) -> None:
            self.merge(s[victim], s[into])
            eater[victim] = into
            first = int(s["fragments"][victim]) // FRAGMENT.itemsize
            for f in fragments[first : first + int(s["nfragments"][victim])]:
                if self.lag < 0 or f["y"] < line - self.lag:
                    freed.append(f)

        for i, new in enumerate(s):
            line = int(new["row"])
            if new["ymin"] < line - self.reach:
                continue
            victims: list[int] = []
            x, y, zone = new["x"] - s["x"][:i], new["y"] - s["y"][:i], 10 * (new["a"].astype(float) + s["a"][:i])
            near = (x * x + y * y < zone * zone) & (s["ymin"][:i] >= line - self.reach)
            for j in np.flatnonzero(near).tolist():
                if eater[j] >= 0:
                    continue
                old, dx, dy = s[j], float(x[j]), float(y[j])
                if new["fdflux"] <= old["fdflux"]:
                    if self.wing(old, dx, dy) > float(new["mthresh"]):
                        merge(i, j, line)
                        break
                elif self.wing(new, dx, dy) > float(old["mthresh"]):
                    victims.append(j)
            else:
                for j in reversed(victims):
                    merge(j, i, line)
        return s, eater, freed

    @staticmethod
    def merge(v: Any, e: Any) -> None:
        """What an eater takes over."""
        for name in ("fdflux", "npix", "flux_iso", "var_iso"):
            e[name] += v[name]
        if v["fdpeak"] > e["fdpeak"]:
            for name in ("fdpeak", "xpeak", "ypeak"):
                e[name] = v[name]
        e["peak"] = max(e["peak"], v["peak"])
        for axis in "xy":
            e[f"{axis}min"] = min(e[f"{axis}min"], v[f"{axis}min"])
            e[f"{axis}max"] = max(e[f"{axis}max"], v[f"{axis}max"])
        e["flags"] |= v["flags"] & ~3


def run(
    sources: Any, fragments: Any, twin: CleanTwin, size: tuple[int, int], *, batch: int = 1 << 30, buckets: int = 1024,
    room: int = 4, grow: int = 1 << 30, enabled: bool = True, neighbours: int = 4096,
) -> tuple[Cleaner, Any, Any]:  # fmt: skip
    """The kernel, fed in batches, with a table that moves every `grow` rows."""
    found = np.zeros(neighbours, np.int32)
    cleaner = Cleaner(twin.beta, enabled, twin.reach, twin.lag, *size, np.zeros(buckets, np.int32), found)
    slab, freed, nfreed = fragments.view(np.uint8), np.zeros(room, FRAGMENT), 0
    table = np.zeros(0, SOURCE)
    for first in range(0, len(sources), batch):
        last = min(first + batch, len(sources))
        if last > len(table) or first // grow != last // grow:
            new = np.zeros(last + min(grow, len(sources)), SOURCE)
            new[:first] = table[:first]
            table = new
            cleaner.attach(table, np.zeros(ENTRY_BYTES * len(table), np.uint8), first)
            cleaner.index(0, first // 2)
            cleaner.index(first // 2, first)
        table[first:last] = sources[first:last]
        while True:
            n, more = cleaner.add(last, slab, freed[nfreed:])
            nfreed += n
            if more == 0:
                break
            freed = np.concatenate([freed[:nfreed], np.zeros(more, FRAGMENT)])
        assert cleaner.count == last
    return cleaner, table[: len(sources)], freed[:nfreed]


def check(sources: Any, fragments: Any, twin: CleanTwin, size: tuple[int, int], **how: Any) -> int:
    """The kernel against the twin; how many were eaten."""
    expected, eater, freed = twin.clean(sources, fragments)
    _, table, got = run(sources, fragments, twin, size, **how)
    assert np.where(table["number"] < 0, -1 - table["number"], -1).tolist() == eater
    for name in SOURCE.names or ():
        if name != "number":
            np.testing.assert_array_equal(table[name], expected[name], err_msg=name)
    assert got.tolist() == [f.tolist() for f in freed]
    return sum(e >= 0 for e in eater)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lag", [-1, 0, 1, 3])
def test_every_pair_in_turn(seed: int, lag: int) -> None:
    sources, fragments = field(seed, 500, 400, 600)
    eaten = check(sources, fragments, CleanTwin(1.0, 1024, lag), (400, 600))
    assert 20 < eaten < 480


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0, 10.0])
def test_wings_of_any_slope(beta: float) -> None:
    sources, fragments = field(9, 400, 300, 500)
    check(sources, fragments, CleanTwin(beta, 1024, 1), (300, 500))


@pytest.mark.parametrize("reach", [1, 8, 30, 100])
def test_nothing_beyond_the_reach(reach: int) -> None:
    sources, fragments = field(3, 600, 200, 1500)
    twin = CleanTwin(1.0, reach, 1)
    assert check(sources, fragments, twin, (200, 1500), batch=50) < check(
        sources, fragments, CleanTwin(1.0, 10**6, 1), (200, 1500), batch=50
    )


@pytest.mark.parametrize("how", [{"batch": 1}, {"batch": 37}, {"batch": 11, "grow": 23}, {"buckets": 1}, {"buckets": 1 << 14}])
def test_batches_moves_and_buckets_change_nothing(how: dict[str, int]) -> None:
    sources, fragments = field(5, 500, 500, 700)
    assert check(sources, fragments, CleanTwin(1.0, 300, 2), (500, 700), **how) > 20


@pytest.mark.parametrize("low, high, side", [(0.3, 0.5, 90), (20, 60, 3000), (100, 300, 9000), (0.5, 250, 3000)])
def test_sources_of_all_sizes_in_one_grid(low: float, high: float, side: int) -> None:
    # From specks to what looks at the whole window.
    sources, fragments = field(6, 250, side, side, (low, high))
    assert check(sources, fragments, CleanTwin(1.0, 10**6, 1), (side, side), batch=20) > 3


def test_compaction_keeps_the_rest() -> None:
    sources, fragments = field(7, 600, 300, 3000)
    twin, size, slab = CleanTwin(1.0, 60, 1), (300, 3000), fragments.view(np.uint8)
    expected, eater, _ = twin.clean(sources, fragments)
    freed = np.zeros(len(fragments), FRAGMENT)
    cleaner = Cleaner(1.0, True, 60, 1, *size, np.zeros(64, np.int32), np.zeros(999, np.int32))
    table, base, eaters = np.zeros(200, SOURCE), 0, [-1] * len(sources)
    cleaner.attach(table, np.zeros(ENTRY_BYTES * 200, np.uint8), 0)
    for first in range(0, 600, 50):
        count = first - base
        if count + 50 > 200:
            # All whose first row is out of reach of what is to come.
            gone = int(np.argmax(np.r_[table["ymin"][:count] >= sources["row"][first] - 60, True]))
            assert gone > 40
            table[: count - gone] = table[gone:count].copy()
            moved = table["number"][: count - gone]
            moved[moved < 0] += gone
            base, count = base + gone, count - gone
            cleaner.attach(table, np.zeros(ENTRY_BYTES * 200, np.uint8), count)
            cleaner.index(0, count)
        table[count : count + 50] = sources[first : first + 50]
        assert cleaner.add(count + 50, slab, freed)[1] == 0
        for i in range(cleaner.count):
            if table["number"][i] < 0:
                eaters[base + i] = int(base - 1 - table["number"][i])
    assert eaters == eater
    assert table[: cleaner.count]["fdflux"].tolist() == expected[base:]["fdflux"].tolist()


def test_without_clean_sources_are_only_taken_in() -> None:
    sources, fragments = field(1, 100, 200, 200)
    _, table, freed = run(sources, fragments, CleanTwin(1.0, 1024, 1), (200, 200), enabled=False)
    assert all((table[name] == sources[name]).all() for name in SOURCE.names or ()) and len(freed) == 0


def test_survivors_are_numbered_in_order_once_final() -> None:
    sources, fragments = field(2, 300, 250, 900)
    cleaner, table, _ = run(sources, fragments, CleanTwin(1.0, 1024, 1), (250, 900))
    alive = np.flatnonzero(table["number"] == 0)
    first = last = 0
    for final in range(0, 1000, 90):
        was = first
        first, last = cleaner.number(first, 1 << 40, final, last)
        assert first >= was and last == (table["number"] > 0).sum()
        assert (table["ymin"][: first][table["number"][:first] > 0] < final).all()
        assert first == 300 or table["ymin"][first] >= final
    assert first == 300 and table["number"][alive].tolist() == list(range(1, len(alive) + 1))


@pytest.mark.parametrize("neighbours", [1, 3, 20])
@pytest.mark.parametrize("seed", range(4))
def test_any_number_of_neighbours(seed: int, neighbours: int) -> None:
    # More than are listed, among them what is eaten, and eaters that come late.
    sources, fragments = field(seed, 300, 60, 150)
    assert check(sources, fragments, CleanTwin(1.0, 40, 1), (60, 150), neighbours=neighbours, batch=30) > 20


@pytest.mark.parametrize("name", ["x", "y", "a"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sources_without_a_place_take_no_part(name: str, value: float) -> None:
    # Pixels near the end of the range of float32 make such.
    sources, fragments = field(2, 120, 150, 150)
    sources[name][40::9] = value
    placed = np.isfinite(sources["x"]) & np.isfinite(sources["y"]) & np.isfinite(sources["a"])
    _, table, _ = run(sources, fragments, CleanTwin(1.0, 1024, 1), (150, 150))
    assert (table["number"][~placed] == 0).all()
    _, alone, _ = run(sources[placed], fragments, CleanTwin(1.0, 1024, 1), (150, 150))
    assert ((alone["number"] < 0) == (table["number"][placed] < 0)).all()
