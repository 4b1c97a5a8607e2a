"""The benchmark beside other programs: its runs and record, the fields it makes, and the page from a made-up record."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from astropy.io import fits

from tests.scenes import ROOT, script
from tests.scripts.test_trace_model import work

bench = script("bench")
page = script("performance_page")
BLOCKS = ("where", "compare", "stages", "sizes", "sources", "giants", "workers", "model", "figure")
QUICK = ["--largest", "256", "--sizes", "128", "--sources", "", "--giants", "", "--rounds", "1", "--mem-limit", "256M"]


def blank(folder: Path) -> Path:
    """A page with a place for everything, and words around."""
    path = folder / "page.md"
    places = [f"<!-- bench {name} -->\nold\n<!-- end -->\n" for name in BLOCKS]
    path.write_text("# Title\n\n" + "\nbetween\n\n".join(places) + "\nlast\n")
    return path


def run_of(section: str, field: str, size: int, program: str = "sextract", turn: int = 1, **other: Any) -> dict[str, Any]:
    """A run as the record has it."""
    run = {
        "section": section, "field": field, "program": program, "workers": 2, "turn": turn, "exit": 0, "wall": 2.0, "cpu": 3.0,
        "size": f"{size}x{size}", "rows": 1000, "blended": 80,
    }  # fmt: skip
    return run | other


def results(*runs: dict[str, Any]) -> Any:
    """A record of such runs."""
    machine = {"cpus": "2", "model": "M", "kernel": "6", "libc": "glibc 2", "python": "3", "numpy": "2", "date": "D"}
    facts = {"versions": "sextract 0", "limit": "512M"}
    made = {"facts": facts, "machine": machine, "missing": ["photutils"], "workers": 2, "runs": dict(enumerate(runs))}
    return page.Results(made)


def cells(text: str) -> list[list[str]]:
    """Rows of a Markdown table without its head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][2:]


def test_runs_record_and_page(tmp_path: Path) -> None:
    pages, record = blank(tmp_path), tmp_path / "record.json"
    own = Path(bench.field_file(tmp_path / "own.fits", "--size", "160x128", "--sources", "12", "--seed", "3"))
    arguments = ["--folder", str(tmp_path / "work"), "--json", str(record), "--page", str(pages), *QUICK]
    programs = ["--programs", "sextract,SExtractor"]
    assert bench.main([*arguments, *programs, "--only", "compare", "plain:512", str(own)]) == 0
    made = json.loads(record.read_text())
    assert made["facts"]["columns"].split()[:2] == ["NUMBER", "X_IMAGE"] and len(made["facts"]["columns"].split()) == 28
    first = made["runs"]
    there = {"sextract"} | ({"SExtractor"} if bench.SEXTRACTOR else set())
    assert {(r["section"], r["field"], r["program"]) for r in first.values()} == {
        *(("compare", name, program) for name in ("plain:512", "own.fits") for program in there),
        *(("held", name, program) for name in ("plain:512", "own.fits") for program in there),
        *(("profile", name, "sextract") for name in ("plain:512", "own.fits")),
    }
    assert all(r["exit"] == 0 and r["wall"] > 0 and r["cpu"] > 0 for r in first.values())
    assert str(tmp_path) not in record.read_text()
    found = {r["program"]: r["rows"] for r in first.values() if r["field"] == "plain:512" and r["section"] == "compare"}
    assert max(found.values()) - min(found.values()) <= 1 and min(found.values()) > 90
    assert all(1 << 20 < r["held"] < 256 << 20 for r in first.values() if r["section"] == "held")
    profile = next(r for r in first.values() if r["section"] == "profile" and r["field"] == "plain:512")
    assert {"start-up", "read", "background cells", "windowed", "seams", "write"} <= set(profile["breakdown"]["stages"])
    # So little work that the parent's share of it is anything.
    assert len(profile["breakdown"]["idle"]) == 2 and profile["breakdown"]["cpu"]["parent"] > 0
    assert profile["work"]["measure"] > 0 and set(profile["plans"]) == {"16", "64"}

    # What is there is kept; only what is missing is run.
    assert bench.main([*arguments, *programs, "plain:512", str(own)]) == 0
    again = json.loads(record.read_text())["runs"]
    assert {key: again[key] for key in first} == first
    assert {r["section"] for r in again.values()} == {"compare", "held", "profile", "start", "workers", "scaling"}

    text = pages.read_text()
    assert text.count("between") == len(BLOCKS) - 1 and text.endswith("last\n")
    assert text.count("old") == 2, "sources and giants alone weren't measured"
    assert "own.fits, 160 × 128" in text and "(page.svg)" in text
    assert (tmp_path / "page.svg").read_text().rstrip().endswith("</svg>")
    pages = blank(tmp_path)
    assert bench.main(["--from-json", str(record), "--page", str(pages)]) == 0
    assert pages.read_text() == text


def test_a_failing_run_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--folder", str(tmp_path), *QUICK, "--mem-limit", "16M", "--programs", "sextract", "--only", "compare"]
    assert bench.main([*arguments, "plain:128"]) == 1
    assert "smallest limit" in capsys.readouterr().err


def test_a_field_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nosuch"):
        bench.main(["--folder", str(tmp_path), *QUICK, "--programs", "sextract", "--only", "compare", "nosuch:64"])


def test_fields_are_cut_and_mirrored(tmp_path: Path) -> None:
    fields = bench.Fields(tmp_path, 96, {})
    with fits.open(fields.path("plain:96")) as hdus:
        whole, header = np.array(hdus[0].data), hdus[0].header
    with fits.open(fields.path("size:40")) as hdus:
        np.testing.assert_array_equal(hdus[0].data, whole[:40, :40])
        assert hdus[0].header["CRVAL1"] == header["CRVAL1"]
    with fits.open(fields.path("size:250")) as hdus:
        hdus.verify("exception")
        large = np.array(hdus[0].data)
    np.testing.assert_array_equal(large[:96, :96], whole)
    np.testing.assert_array_equal(large[:96, 96:192], whole[:, ::-1])
    np.testing.assert_array_equal(large[96:192, 192:], whole[::-1, :58])


def test_a_giant_is_one_object_with_many_peaks(tmp_path: Path) -> None:
    with fits.open(bench.Fields(tmp_path, 96, {}).path("giant:120")) as hdus:
        pixels = np.array(hdus[0].data)
    assert pixels.shape == (120, 120) and pixels.min() > 1.5
    assert (pixels > 9).sum() > 120 * 120 / bench.PEAK_AREA


def test_what_the_comparison_says() -> None:
    runs = [run_of("compare", "plain:8192", 8192, turn=k, wall=wall) for k, wall in ((1, 2.0), (2, 4.0), (3, 2.0))]
    theirs = [(1, 10.0, 9.0), (2, 12.0, 9.0), (3, 20.0, 9.0)]
    runs += [run_of("compare", "plain:8192", 8192, "SExtractor", turn=k, wall=w, cpu=c) for k, w, c in theirs]
    runs += [run_of("held", "plain:8192", 8192, held=(100 << 20) + 1)]
    ours, other = cells(results(*runs).compare())
    assert ours[:3] == ["plain, 8192 × 8192", "sextract, 2 workers", "2.00 (2.00–4.00)"]
    assert ours[3:] == ["3.00 (3.00–3.00)", "101", "1,000 (8 %)", "", ""]
    # Pair by pair: 5, 3 and 10.
    assert other[1:3] == ["SExtractor", "12.00 (10.00–20.00)"] and other[4] == "–"
    assert other[6:] == ["5.0 (3.0–10.0)", "3.0 (3.0–3.0)"]
    assert "left out: photutils" in results(*runs).where()


@pytest.mark.parametrize(("power", "flagged"), [(1.0, False), (1.5, True)])
def test_what_is_not_linear_is_said(power: float, flagged: bool) -> None:
    sizes = (1024, 2048, 4096, 8192)
    runs = [run_of("scaling", f"size:{n}", n, cpu=0.4 + 2.0 * (n / 4096) ** (2 * power)) for n in sizes]
    text = results(run_of("start", "plain:256", 256, cpu=0.4, breakdown={"cpu": {"parent": 0.2}}), *runs).blocks()["sizes"]
    assert f"Exponent over all: {power:.2f}" in text
    assert ("more than linear" in text) == flagged


def test_sources_are_counted_beyond_the_pixels() -> None:
    found = [(1000, 200), (10_000, 2200), (100_000, 20_200)]
    runs = [run_of("scaling", f"sources:{n}", 4096, cpu=1.0 + 1e-4 * (rows - 200), rows=rows) for n, rows in found]
    text = results(*runs).blocks()["sources"]
    assert [row[5] for row in cells(text)] == ["", "100", "100"]
    assert "Exponent over all: 1.00" in text


def test_the_model_beside_the_measurement() -> None:
    recorded = asdict(work())
    breakdown = {"stages": {"read": 1.0}, "idle": [0.1, 0.2], "wall": 24.0, "cpu": {"parent": 0.5}, "parent_share": 0.07}
    runs = [run_of("workers", "plain:8192", 8192, workers=n, wall=48.0 / n) for n in (1, 2)]
    runs += [run_of("profile", "plain:8192", 8192, work=recorded, breakdown=breakdown, plans={"16": {"workers": "12 of 16"}})]
    starts = [run_of("start", "plain:256", 256, workers=n, breakdown={"cpu": {"parent": 0.2 + 0.01 * n}}) for n in (1, 16)]
    made = results(*runs, *starts)
    assert made.spawn() == pytest.approx(0.01)
    one, two = cells(made.blocks()["workers"])
    assert one[3:] == ["1.00", "48.00", "+0 %"] and two[3] == "2.00" and abs(float(two[4]) - 24.0) < 1.5
    text = made.blocks()["model"]
    own, other = "8192 × 8192 pixels, from its own record", "30000 × 30000 pixels, from the record of the smaller"
    assert text.index(own) < text.index(other)
    assert "| 16 workers | 12 of 16 |" in text
    assert "7.0 %" in made.blocks()["stages"]
    # Two lines and what they would be, and a dot for each measurement, all within the figure.
    drawn = ElementTree.fromstring(page.drawing(made))
    lines = [part.attrib["points"].split() for part in drawn.iter() if part.tag.endswith("polyline")]
    dots = [part.attrib for part in drawn.iter() if part.tag.endswith("circle")]
    assert len(lines) == 4 and len(dots) == 2
    places = [tuple(map(float, point.split(","))) for line in lines for point in line]
    assert all(60 <= x <= 540 and 30 <= y <= 250 for x, y in places)


def test_the_page_has_a_place_for_everything() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    for name in BLOCKS:
        assert text.count(f"<!-- bench {name} -->\n") == 1, name
    assert text.count("<!-- end -->") == len(BLOCKS)
    assert list(results().blocks()) == list(BLOCKS[:-1])


@pytest.mark.parametrize("program", ["sep", "photutils"])
def test_a_peer_measures_what_is_there(tmp_path: Path, program: str) -> None:
    pytest.importorskip(program)
    path = bench.Fields(tmp_path, 96, {}).path("plain:300")
    assert script("bench_peers").main([program, str(path), str(tmp_path / "out.fits")]) == 0
    table = fits.getdata(tmp_path / "out.fits", 1)
    assert 25 < len(table) < 80 and np.isfinite(table["ra"]).all()
    assert np.nanmedian(table["flux_aper2"]) > np.nanmedian(table["flux_aper0"]) > 0
