"""The files that come with the package, and the dumps."""

import re
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

from sextract.config.doors import built_columns
from sextract.config.dump import dump_columns, dump_configuration
from sextract.config.keywords import KEYWORDS, OURS, parse_value
from sextract.config.parameters import PARAMETERS
from sextract.config.resolve import SHARE
from sextract.config.sexfile import parse_conv, parse_param, parse_sex, split_members

ROOT = Path(__file__).resolve().parents[2]
KERNELS = sorted(SHARE.glob("*.conv"))

# Points in a pixel at which the kernels' formulas are taken, along each axis.
POINTS = (np.arange(10) + 0.5) / 10 - 0.5


def averaged(profile, n):
    """Mean over 10 x 10 points of each of n x n pixels of a function of r²."""
    grid = (np.arange(n)[:, None] - n // 2 + POINTS).ravel()
    fine = profile(grid[:, None] ** 2 + grid[None, :] ** 2)
    return fine.reshape(n, 10, n, 10).mean(axis=(1, 3))


def gaussian(fwhm, n):
    return averaged(lambda r2: np.exp(-r2 * 2.35**2 / (2 * fwhm**2)), n)


def expected(name):
    if name == "default":
        return np.outer([1, 2, 1], [1, 2, 1])
    kind, *size = name.split("_")
    n = int(size[-1].split("x")[0])
    if kind == "block":
        return np.ones((n, n))
    width = float(size[0])
    if kind == "gauss":
        return gaussian(width, n)
    if kind == "tophat":
        return averaged(lambda r2: (r2 <= width**2 / 4).astype(float), n)
    narrow = round(width / np.sqrt(2), 2)
    return gaussian(narrow, n) - gaussian(narrow * np.sqrt(2), n) / 2


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.stem)
def test_kernels_follow_their_formulas(path):
    wanted = expected(path.stem)
    raw = parse_conv(path.read_text().replace("CONV NORM", "CONV NONORM"), path.name)
    np.testing.assert_allclose(raw.taps, wanted, rtol=0, atol=6e-7)
    assert parse_conv(path.read_text(), path.name).normed


def test_kernels_of_every_kind_are_there():
    kinds = {path.stem.split("_")[0] for path in KERNELS}
    assert kinds == {"default", "gauss", "tophat", "mexhat", "block"}


def settings_of(text):
    return {s.keyword: s.members for s in parse_sex(text, "dump", {})}


@pytest.mark.parametrize("full", [False, True])
def test_a_dump_reads_back_as_the_defaults(full):
    found = settings_of(dump_configuration(full))
    assert set(found) == {k.name for k in KEYWORDS.values() if full or k.short}
    for name, members in found.items():
        key = KEYWORDS[name]
        assert parse_value(key, members) == parse_value(key, split_members(key.default, name))


def test_the_packages_configuration_has_the_defaults_but_for_its_apertures():
    found = settings_of((SHARE / "default.sex").read_text())
    dumped = settings_of(dump_configuration(False))
    assert {k for k in dumped if dumped[k] != found.pop(k)} == {"PHOT_APERTURES"}
    assert found == {}


def test_the_packages_columns_are_sextractors_and_built():
    columns, odd = parse_param((SHARE / "default.param").read_text(), "default.param")
    assert odd == []
    assert {c.name for c in columns} <= set(PARAMETERS)
    assert {c.name for c in columns} <= set(built_columns())


def test_columns_are_dumped_in_sextractors_layout():
    lines = dump_columns().splitlines()
    names = [line[1:25].rstrip() for line in lines]
    assert set(names) == set(built_columns())
    known = [n for n in names if n in PARAMETERS]
    assert known == sorted(known, key=PARAMETERS.index)
    for line in lines:
        assert re.fullmatch(r"#\w+ +\S.{56,}( \[\S.*\])?", line)
        assert line[26 - 1] == " " and line[26] != " "


def test_configs_is_where_the_package_looks():
    assert (ROOT / "configs").resolve() == SHARE.resolve()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "share/*" in data["sextract"]


def program():
    try:
        run = subprocess.run(["source-extractor", "-dd"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("source-extractor isn't installed")
    return run.stdout


def test_defaults_are_what_sextractor_prints():
    theirs = settings_of(program())
    ours = settings_of(dump_configuration(True))
    # A style sheet's place and the threads depend on how it was built; BACK_PEARSON came after 2.25.
    built = {"XSL_URL", "NTHREADS", "BACK_PEARSON"}
    own = {k.name for k in KEYWORDS.values() if k.section == OURS}
    assert set(ours) - own - built == set(theirs) - built
    assert {k: v for k, v in theirs.items() if k not in built} == {k: ours[k] for k in theirs if k not in built}


def test_parameters_are_what_sextractor_prints():
    program()
    run = subprocess.run(["source-extractor", "-dp"], capture_output=True, text=True, check=True)
    theirs = {line[1:25].rstrip(): line.rstrip() for line in run.stdout.splitlines()}
    assert tuple(theirs) == PARAMETERS
    ours = {line[1:25].rstrip(): line.rstrip() for line in dump_columns().splitlines()}
    assert {n: ours[n] for n in ours if n in theirs} == {n: theirs[n] for n in ours if n in theirs}
