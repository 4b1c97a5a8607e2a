"""Reports of every kind from a made-up run: what stands in them, and that they need nothing from elsewhere."""

from __future__ import annotations

import csv
import json
import os
import re
import struct
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest

from sextract.config.settings import ResourceSettings
from sextract.errors import ConfigError, OutputError
from sextract.memory.budget import MIB, Budget
from sextract.memory.gauge import Reading
from sextract.memory.slab import Slab
from sextract.memory.timeline import Recorder
from sextract.report import SUFFIXES
from sextract.report.files import DRAWING_BYTES, Reports, open_reports
from sextract.report.page import html_pieces, nice_step
from sextract.report.report import Report
from sextract.report.text import csv_pieces, json_pieces

KIB_PER_MIB = 1024
IMAGE = "a <b> & 'c'.fits"
BUDGET = Budget(200 * MIB, 50 * MIB, 4)


def plenty() -> tuple[int, str]:
    return 1 << 50, "machine"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A run of three seconds: 50 MiB after the start, a peak of 130 after two, two events."""
    slab = Slab(100 * MIB, headroom=plenty)
    kept = Recorder(slab)
    kept.keep(2)
    kept._processes = lambda: {"template": 10, "worker 1": 11, "worker 2": 12}
    kept.base = 50 * MIB
    slab.alloc(20 * MIB, "tiles")
    slab.alloc(5 * MIB, "scratch")
    own = os.getpid()
    for k in range(300):
        if k == 100:
            kept.mark("detection")
        if k == 150:
            kept.note("buffers are <given> up")
        high = 30 * MIB if k == 200 else 0
        parts = {own: 20 * MIB + high, 10: 5 * MIB, 11: 20 * MIB, 12: 15 * MIB}
        kept.cached = lambda k=k: 4 * MIB
        kept.take(kept._started + k / 100, Reading(40 * MIB, 60 * MIB + high, True, 180 * MIB, MIB, parts))
    kept.stages = [note._replace(seconds=float(k)) for k, note in enumerate(kept.stages)]
    kept.note("worker 1 (process 11) ended (SIGKILL) and is replaced")
    kept.stop()
    yield kept
    slab.close()


@pytest.fixture
def report(recorder: Recorder) -> Report:
    return Report.of(recorder, IMAGE, BUDGET, "pss", 2)._replace(seconds=3.0)


def test_json_has_everything(report: Report) -> None:
    told = json.loads("".join(json_pieces(report)))
    assert told["image"] == IMAGE
    assert (told["limit_bytes"], told["base_bytes"], told["peak_bytes"]) == (200 * MIB, 50 * MIB, 130 * MIB)
    assert told["peak"]["seconds"] == pytest.approx(2.0)
    assert told["rss_peak"]["rss_bytes"] == 180 * MIB
    assert told["largest_process"] == {"name": "parent", "bytes": 50 * MIB, "seconds": pytest.approx(2.0)}
    assert [stage["text"] for stage in told["stages"]] == ["start", "detection"]
    assert len(told["events"]) == 2
    assert told["columns"][:6] == ["seconds", "held", "rss", "slab", "used", "cached"]
    assert len(told["samples"]) == 300
    column = {name: [row[k] for row in told["samples"]] for k, name in enumerate(told["columns"])}
    assert max(column["held"]) * told["unit_bytes"] == 130 * MIB
    assert set(column["worker 2"]) == {15 * KIB_PER_MIB}


def test_the_table_adds_up(report: Report) -> None:
    lines = {line.part: line for line in report.lines()}
    parts = [line for line in lines.values() if line.level == 1]
    slab = [line for line in lines.values() if line.level == 2]
    held = lines["held by all processes"]
    assert held.at_peak == sum(line.at_peak or 0 for line in parts) == 130 * MIB
    assert held.at_end == sum(line.at_end or 0 for line in parts) == 100 * MIB
    assert (lines["interpreter and libraries"].at_peak, lines["heaps"].at_peak) == (50 * MIB, 40 * MIB)
    assert lines["heaps"].most == 40 * MIB
    assert sum(line.at_peak or 0 for line in slab) == lines["buffers (the slab)"].at_peak == 40 * MIB
    assert (lines["tiles"].at_peak, lines["scratch"].most) == (20 * MIB, 5 * MIB)
    assert lines["sum of Rss (a shared page once a process)"].most == 180 * MIB


def test_csv_is_a_table_below_its_comments(report: Report) -> None:
    lines = "".join(csv_pieces(report)).splitlines()
    comments = [line for line in lines if line.startswith("#")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert any(re.match(r"#   heaps +40\.0 +10\.0 +40\.0$", line) for line in comments)
    assert any("buffers are <given> up" in line for line in comments)
    assert len(rows) == 300
    assert {row["limit_kib"] for row in rows} == {str(200 * KIB_PER_MIB)}
    assert max(int(row["held_kib"]) for row in rows) == 130 * KIB_PER_MIB
    assert (rows[99]["stage"], rows[100]["stage"]) == ("start", "detection")
    assert float(rows[-1]["seconds"]) == pytest.approx(2.99)


def test_the_page_stands_alone_and_is_well_formed(report: Report) -> None:
    page = "".join(html_pieces(report))
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|https?://", page)
    assert "a &lt;b&gt; &amp; &#x27;c&#x27;.fits" in page
    assert "buffers are &lt;given&gt; up" in page
    drawings = [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert len(drawings) == 2
    texts = ["".join(node.itertext()) for drawing in drawings for node in drawing.iter("text")]
    assert {"MiB", "seconds", "start", "detection", "limit 200.0 MiB", "peak 130.0 MiB"} <= set(texts)
    titles = [node.text for node in drawings[1].iter("title")]
    assert {"parent", "template", "worker 1", "worker 2"} <= set(titles)
    # Every part of the pile, and of the table.
    for line in report.lines():
        assert f"<td>{escape(line.part)}</td>" in page


def test_the_pile_is_below_the_limit_line(report: Report) -> None:
    page = "".join(html_pieces(report))
    drawing = ET.fromstring(re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0])
    paths = {node[0].text: node.attrib["d"] for node in drawing.iter("path") if len(node)}
    points = {name: [tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", d)] for name, d in paths.items()}
    limit = float(next(line.attrib["y1"] for line in drawing.iter("line") if line.attrib.get("stroke") == "#c00000"))
    top = min(y for _, y in points["held by all processes"])
    bottom = max(y for _, y in points["interpreter and libraries"])
    # Heights are in proportion to the bytes.
    assert (bottom - top) / (bottom - limit) == pytest.approx(130 / 200, abs=0.01)
    assert points["free, kept for reuse"][1:-1] == points["held by all processes"]


def test_a_limit_far_above_leaves_the_chart_alone(recorder: Recorder) -> None:
    report = Report.of(recorder, IMAGE, Budget(9000 * MIB, 50 * MIB, 4), "pss", 2)
    page = "".join(html_pieces(report))
    assert "9000.0 MiB, is far above this chart" in page
    assert "limit 9000.0 MiB</text>" not in page


@pytest.mark.parametrize("length", [1e-6, 0.3, 1.0, 7.0, 99.0, 12345.0])
def test_ticks_are_round_and_as_many_as_fit(length: float) -> None:
    step = nice_step(length, 6)
    assert 1.9 <= length / step <= 6.1
    assert f"{step:e}"[0] in "125"


def settings(folder: Path, *names: str, limit: int = 1024 * MIB) -> ResourceSettings:
    return ResourceSettings(mem_limit_bytes=limit, mem_report=tuple(str(folder / name) for name in names))


def write(reports: Reports, recorder: Recorder) -> None:
    reports.write(recorder, IMAGE, BUDGET, "pss", 2)


def test_files_appear_when_the_run_has_ended_well(tmp_path: Path, recorder: Recorder) -> None:
    with open_reports(settings(tmp_path, "a.json", "b.html", "c.CSV")) as reports:
        assert reports.wanted
        write(reports, recorder)
        assert not [name for name in os.listdir(tmp_path) if not name.startswith(".")]
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.html", "c.CSV"]
    assert json.loads((tmp_path / "a.json").read_text())["image"] == IMAGE


def test_a_run_that_fails_leaves_none(tmp_path: Path, recorder: Recorder) -> None:
    with pytest.raises(ZeroDivisionError), open_reports(settings(tmp_path, "a.json", "b.html")) as reports:
        write(reports, recorder)
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_without_a_name_there_is_nothing_to_do(tmp_path: Path) -> None:
    with open_reports(settings(tmp_path)) as reports:
        assert not reports.wanted


def test_a_folder_that_is_missing_is_known_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"a\.html: its folder does not exist; choose another place with --mem-report"),
        open_reports(settings(tmp_path, "good.csv", "no/a.html")),
    ):
        pytest.fail("it was opened")
    assert os.listdir(tmp_path) == []


def test_a_drawing(tmp_path: Path, recorder: Recorder) -> None:
    pytest.importorskip("matplotlib", reason="the drawing's library isn't installed")
    with open_reports(settings(tmp_path, "a.png", "a.json")) as reports:
        write(reports, recorder)
    data = (tmp_path / "a.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 1000
    assert height >= 800
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.png"]


def test_a_drawing_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install sextract\[plot\]"), open_reports(settings(tmp_path, "a.png")):
        pytest.fail("it was opened")


def test_a_drawing_needs_room(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the drawing's library isn't installed")
    small = settings(tmp_path, "a.png", limit=DRAWING_BYTES - 1)
    with pytest.raises(ConfigError, match=r"takes \d+M for matplotlib.*\.html"), open_reports(small):
        pytest.fail("it was opened")


def test_suffixes_are_those_that_are_written() -> None:
    assert set(SUFFIXES) == {".html", ".png", ".json", ".csv"}
