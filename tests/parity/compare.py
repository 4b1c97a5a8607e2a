"""Matches two catalogues of one image and judges their differences by bounds and by the reference's own scatter.

It does not run anything (``reference.py``).  Differences are relative for fluxes, a share of rows for flags, modulo
180 degrees for angles, absolute for the rest; vectors are taken element by element, images by their largest element.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[Any]
BLENDED = 2
GROUPS = ("unblended", "blended")


@dataclass(frozen=True)
class Table:
    """One table of a catalogue: its rows, and (TFORM, TUNIT, TDISP, TDIM) of each column as parsed."""

    rows: Array
    formats: dict[str, tuple[Any, ...]]


def load(path: str | Path) -> list[Table]:
    """The object tables of a FITS_1.0 or FITS_LDAC catalogue."""
    with fits.open(path) as hdus:
        tables = [h for h in hdus if isinstance(h, fits.BinTableHDU) and h.name != "LDAC_IMHEAD"]
        return [Table(np.array(h.data), {c.name: parsed(c) for c in h.columns}) for h in tables]


def parsed(column: fits.Column) -> tuple[Any, ...]:
    """What a column's header means: J is 1J, (9,5) is (9, 5)."""
    form = column.format if column.format[0].isdigit() else f"1{column.format}"
    dim = tuple(int(n) for n in str(column.dim).strip("()").split(",")) if column.dim else None
    return form, column.unit, column.disp, dim


def match(a: Array, b: Array, radius: float = 0.5) -> NDArray[np.int64]:
    """Pairs (i, j) of rows within `radius` pixels, one to one, nearest first."""
    if not len(a) or not len(b):
        return np.empty((0, 2), np.int64)
    k = min(4, len(b))
    tree = cKDTree(np.c_[b["X_IMAGE"], b["Y_IMAGE"]])
    distance, j = tree.query(np.c_[a["X_IMAGE"], a["Y_IMAGE"]], k=k, distance_upper_bound=radius)
    distance, j = distance.reshape(len(a), k), j.reshape(len(a), k)
    i, n = np.nonzero(np.isfinite(distance))
    left, right = np.zeros(len(a), bool), np.zeros(len(b), bool)
    pairs = []
    for p in np.lexsort((j[i, n], i, distance[i, n])):
        row, other = i[p], j[i[p], n[p]]
        if not left[row] and not right[other]:
            left[row] = right[other] = True
            pairs.append((row, other))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def difference(name: str, x: Array, y: Array) -> NDArray[np.float64]:
    """|y − x| as column `name` counts it; two NaNs are equal."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    with np.errstate(all="ignore"):
        if name.startswith("FLUX") and not name.startswith("FLUX_RADIUS"):
            d = np.abs(y - x) / np.maximum(np.abs(x), 1e-30)
        elif name.startswith(("THETA", "ERRTHETA")):
            d = np.abs((y - x + 90.0) % 180.0 - 90.0)
        elif name.startswith("FLAGS"):
            d = (x != y).astype(float)
        else:
            d = np.abs(y - x)
    return np.where((np.isnan(x) & np.isnan(y)) | (x == y), 0.0, d)


def elements(name: str, d: Array) -> Iterator[tuple[str, Array]]:
    """(label, one difference per row)."""
    if d.ndim == 1:
        yield name, d
    elif d.ndim == 2:
        yield from ((f"{name}[{k + 1}]", d[:, k]) for k in range(d.shape[1]))
    else:
        yield name, d.reshape(len(d), -1).max(axis=1)


@dataclass(frozen=True)
class Spread:
    """How far apart one column of two catalogues is, over the rows of a group.

    Attributes
    ----------
    rows : int
    median, p95, p99, mean : float
        NaN without a finite difference.
    not_finite : int
        Rows where one side alone is NaN or infinite.
    """

    rows: int
    median: float
    p95: float
    p99: float
    mean: float
    not_finite: int


def spread(d: Array) -> Spread:
    """Percentiles of the finite differences."""
    good = d[np.isfinite(d)]
    if not len(good):
        return Spread(len(d), *[float("nan")] * 4, len(d))
    median, p95, p99 = np.percentile(good, [50, 95, 99])
    return Spread(len(d), float(median), float(p95), float(p99), float(good.mean()), len(d) - len(good))


@dataclass
class Comparison:
    """Everything that two catalogues of one image differ in.

    Attributes
    ----------
    rows : tuple of int
        Of the reference, of the other.
    matched : int
    unmatched : dict
        Group → rows without a partner, in the reference and in the other, by their own blending flag.
    total : dict
        Group → rows of the reference.
    formats : dict
        Column → ((TFORM, TUNIT, TDISP, TDIM) of the reference, of the other), where they differ.
    missing, surplus : list of str
        Columns that only the reference, only the other has.
    columns : dict
        (label, group) → Spread.
    """

    rows: tuple[int, int] = (0, 0)
    matched: int = 0
    unmatched: dict[str, tuple[int, int]] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)
    formats: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    columns: dict[tuple[str, str], Spread] = field(default_factory=dict)


def compare(reference: Sequence[Table], other: Sequence[Table], radius: float = 0.5) -> Comparison:
    """Compares catalogues table by table; both need X_IMAGE, Y_IMAGE and FLAGS."""
    if len(reference) != len(other):
        raise ValueError(f"{len(reference)} tables in the reference, {len(other)} in the other catalogue")
    out = Comparison()
    parts: dict[tuple[str, str], list[Array]] = {}
    alone = {g: [0, 0] for g in GROUPS}
    total = dict.fromkeys(GROUPS, 0)
    for ref, cat in zip(reference, other, strict=True):
        pairs = match(ref.rows, cat.rows, radius)
        out.rows = (out.rows[0] + len(ref.rows), out.rows[1] + len(cat.rows))
        out.matched += len(pairs)
        out.missing = sorted({*out.missing, *(set(ref.formats) - set(cat.formats))})
        out.surplus = sorted({*out.surplus, *(set(cat.formats) - set(ref.formats))})
        both = [n for n in ref.formats if n in cat.formats]
        out.formats |= {n: (ref.formats[n], cat.formats[n]) for n in both if ref.formats[n] != cat.formats[n]}
        for side, (rows, used) in enumerate(((ref.rows, pairs[:, 0]), (cat.rows, pairs[:, 1]))):
            lone = np.setdiff1d(np.arange(len(rows)), used)
            blended = (rows["FLAGS"][lone] & BLENDED) > 0
            alone["blended"][side] += int(blended.sum())
            alone["unblended"][side] += int((~blended).sum())
        own = (ref.rows["FLAGS"] & BLENDED) > 0
        total["blended"] += int(own.sum())
        total["unblended"] += int((~own).sum())
        collect(ref.rows[pairs[:, 0]], cat.rows[pairs[:, 1]], both, parts)
    out.unmatched = {g: (n[0], n[1]) for g, n in alone.items()}
    out.total = total
    out.columns = {key: spread(np.concatenate(d)) for key, d in parts.items()}
    return out


def scatter(catalogues: Sequence[Sequence[Table]]) -> list[Comparison]:
    """Every pair of runs that differ in their random numbers alone: how far apart two draws may be."""
    return [compare(a, b) for a, b in itertools.combinations(catalogues, 2)]


def collect(x: Array, y: Array, names: Sequence[str], parts: dict[tuple[str, str], list[Array]]) -> None:
    """Adds the differences of matched rows to `parts`, by element and by group."""
    blended = ((x["FLAGS"] | y["FLAGS"]) & BLENDED) > 0
    for name in names:
        # NUMBER's order in the reference comes from swaps in its list, ID_PARENT's from the blobs it met.
        if name in ("NUMBER", "ID_PARENT") or x[name].dtype.kind not in "iuf" or x[name].shape != y[name].shape:
            continue
        if not len(x):
            continue
        for label, d in elements(name, difference(name, x[name], y[name])):
            parts.setdefault((label, "unblended"), []).append(d[~blended])
            parts.setdefault((label, "blended"), []).append(d[blended])


# Bounds on unblended rows: (median, 95th percentile) of the first prefix that fits.  Fluxes relative, positions pixels.
BOUNDS: tuple[tuple[str, tuple[float, float]], ...] = (
    ("FLUX_ISO", (1e-5, 1e-3)),
    ("FLUX_APER", (1e-5, 1e-3)),
    ("FLUX_AUTO", (1e-5, 3e-3)),
    ("XWIN_IMAGE", (1e-5, 1e-3)),
    ("YWIN_IMAGE", (1e-5, 1e-3)),
    # The errors hold a pixel count; AUTO's follows the Kron ellipse, which FLUX_RADIUS hangs on too.
    ("FLUXERR_AUTO", (1e-5, 3e-3)),
    ("FLUX_RADIUS", (1e-5, 1e-2)),
    ("KRON_RADIUS", (1e-5, 1e-2)),
    # Degrees.
    ("THETA", (1e-3, 0.1)),
    ("ERRTHETA", (1e-3, 0.1)),
    # ADU: an absolute difference means little, fluxes are compared apart.
    ("THRESHOLD", (1e-3, 1e-2)),
    ("BACKGROUND", (1e-3, 1e-2)),
    ("", (1e-5, 1e-2)),
)
FLAGS_SHARE = 0.03
UNMATCHED_SHARE = 0.005
# How far another draw of the reference's random numbers may be left behind: its largest run times this.
RESEED_FACTOR = 1.5


@dataclass(frozen=True)
class Verdict:
    """One line of a judgement: what was seen, what a reseeded reference shows, what is allowed."""

    label: str
    group: str
    statistic: str
    value: float
    reseeded: float
    bound: float

    @property
    def held(self) -> bool:
        """Whether the value keeps the bound; a value that could not be computed does not."""
        return bool(self.value <= self.bound)

    def __str__(self) -> str:
        word = "ok" if self.held else "FAILS"
        return (
            f"{self.label:18s} {self.group:9s} {self.statistic:9s} {self.value:9.2e}  "
            f"reseeded {self.reseeded:9.2e}  bound {self.bound:9.2e}  {word}"
        )


def bounds_of(label: str) -> tuple[float, float]:
    """Stated (median, 95th percentile) of a column."""
    return next(bound for prefix, bound in BOUNDS if label.startswith(prefix))


def judge(seen: Comparison, reseeded: Sequence[Comparison]) -> list[Verdict]:
    """Every bound, unblended rows first.

    A bound is the larger of the stated one and 1.5 x the largest of the reseeded runs', for medians, percentiles and
    counts alike; for blended rows, where the reference is mostly its own noise, the stated one is only the floor that
    lets runs without any random sharing pass.
    """
    out = []
    for group in GROUPS:
        for side, name in enumerate(("ref only", "ours only")):
            again = max((max(r.unmatched[group]) for r in reseeded), default=0)
            allowed = max(UNMATCHED_SHARE * seen.total[group], 1.0, RESEED_FACTOR * again)
            out.append(Verdict("unmatched", group, name, seen.unmatched[group][side], again, allowed))
        for (label, of), now in seen.columns.items():
            if of == group and now.rows:
                again_of = [r.columns[label, of] for r in reseeded if (label, of) in r.columns]
                out += judge_column(label, group, now, again_of)
    return out


def judge_column(label: str, group: str, now: Spread, again: Sequence[Spread]) -> list[Verdict]:
    """The bounds on one column of one group."""

    def worst(statistic: str) -> float:
        values = [getattr(s, statistic) for s in again if s.rows]
        return max((v for v in values if np.isfinite(v)), default=0.0)

    if label.startswith("FLAGS"):
        scatter = worst("mean")
        return [Verdict(label, group, "differing", now.mean, scatter, max(FLAGS_SHARE, RESEED_FACTOR * scatter))]
    out = []
    for statistic, stated in zip(("median", "p95"), bounds_of(label), strict=True):
        scatter = worst(statistic)
        bound = max(stated, RESEED_FACTOR * scatter)
        out.append(Verdict(label, group, statistic, getattr(now, statistic), scatter, bound))
    if now.not_finite:
        lost = max((s.not_finite for s in again), default=0)
        allowed = max(UNMATCHED_SHARE * now.rows, 1.0, RESEED_FACTOR * lost)
        out.append(Verdict(label, group, "not finite", now.not_finite, lost, allowed))
    return out
