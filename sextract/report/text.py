"""Memory reports for scripts: JSON, and CSV with the table as comments.

Everything is given in pieces of some kilobytes, so that a report of any length takes no memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sextract.memory.timeline import Moment, Note
from sextract.report.report import Report, mib

# What the numbers of the timeline are; 1: bytes.
UNIT = 1024


def json_pieces(report: Report) -> Iterator[str]:
    """One object: facts, ``table``, ``stages``, ``events``, and the timeline as ``columns`` and ``samples`` (KiB)."""
    name, nbytes, seconds = report.largest
    head: dict[str, Any] = {
        "format": "sextract memory report",
        "version": 1,
        "software": report.software,
        "image": report.image,
        "account": report.account,
        "workers": report.workers,
        "seconds": round(report.seconds, 4),
        "limit_bytes": report.limit,
        "base_bytes": report.base,
        "kernel_allowance_bytes": report.kernel,
        "peak_bytes": report.most["held"],
        "peak": _moment(report.peak),
        "rss_peak": _moment(report.rss_peak),
        "largest_process": {"name": name, "bytes": nbytes, "seconds": round(seconds, 4)},
        "looks": report.samples,
        "looking_cpu_seconds": round(report.looking_seconds, 4),
        "table": [
            {"part": line.part, "at_peak_bytes": line.at_peak, "at_end_bytes": line.at_end, "most_bytes": line.most,
             "level": line.level}
            for line in report.lines()
        ],
        "stages": [_note(note) for note in report.stages],
        "events": [_note(note) for note in report.events],
        "looks_per_sample": report.timeline.stride,
        "unit_bytes": UNIT,
        "columns": ["seconds", *report.timeline.names],
    }  # fmt: skip
    yield json.dumps(head, indent=1, ensure_ascii=False)[:-2]
    yield ',\n "samples": ['
    between = "\n  "
    for at, values in report.timeline.rows():
        yield between + json.dumps([round(at, 4), *(value // UNIT for value in values)])
        between = ",\n  "
    yield "\n ]\n}\n"


def _moment(moment: Moment) -> dict[str, Any]:
    return {
        "held_bytes": moment.reading.total,
        "rss_bytes": moment.reading.rss,
        "seconds": round(moment.seconds, 4),
        "stage": moment.stage,
    }


def _note(note: Note) -> dict[str, Any]:
    return {"seconds": round(note.seconds, 4), "text": note.text}


def csv_pieces(report: Report) -> Iterator[str]:
    """Lines of the timeline, in KiB, below the facts, the table and the notes as comments."""
    for name, text in report.facts():
        yield f"# {name}: {_plain(text)}\n"
    yield f"# {'MiB':<46}{'at the peak':>12}{'at the end':>12}{'most':>12}\n"
    for line in report.lines():
        part = "  " * max(line.level, 0) + line.part
        yield f"# {part:<46}{mib(line.at_peak):>12}{mib(line.at_end):>12}{mib(line.most):>12}\n"
    for note in report.stages:
        yield f"# from {note.seconds:.3f} s: {note.text}\n"
    for note in report.events:
        yield f"# at {note.seconds:.3f} s: {_plain(note.text)}\n"
    names = (name.replace(" ", "_") for name in report.timeline.names)
    yield ",".join(["seconds", "limit_kib", *(f"{name}_kib" for name in names), "stage"]) + "\n"
    limit, stages, k = report.limit // UNIT, report.stages, 0
    for at, values in report.timeline.rows():
        while k + 1 < len(stages) and stages[k + 1].seconds <= at:
            k += 1
        yield f"{at:.4f},{limit},{','.join(str(value // UNIT) for value in values)},{stages[k].text}\n"


def _plain(text: str) -> str:
    """Text in one line."""
    return " ".join(text.split())
