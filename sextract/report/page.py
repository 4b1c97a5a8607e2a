"""The memory report as a page for people: one HTML file with its drawings in it, that needs no network and no script.

Two charts: what was held over time, piled up against the limit; and the private memory of each process.  Numbers under the
mouse are the browser's own tooltips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape
from typing import NamedTuple

from sextract.memory.budget import MIB
from sextract.memory.timeline import VALUES
from sextract.report.report import Report, mib, process_names

# Of a chart, in CSS pixels: all of it, and the margins at its left, top, right and below.
_WIDTH, _HEIGHT, _SECOND_HEIGHT = 1060, 400, 240
_LEFT, _TOP, _RIGHT, _BELOW = 64, 40, 14, 40
# A stage's name needs so many pixels a letter.
_LETTER = 6.5

# Told apart with any kind of colour vision (after Okabe and Ito).
_PILE = (
    ("interpreter and libraries", "#7f8c99"),
    ("heaps", "#d55e00"),
    ("buffers in use", "#0072b2"),
    ("cached tiles (could be given up)", "#56b4e9"),
    ("free, kept for reuse", "#cfe8f7"),
)
_LIMIT, _RSS, _HELD, _EVENT = "#c00000", "#8e44ad", "#1b2733", "#c00000"
_PARENT, _TEMPLATE = "#1b2733", "#999999"
_WORKERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8e44ad", "#a0522d")
# More lines than this aren't told apart by a legend.
_MOST_NAMED = 12

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b2733; background: #fff; max-width: 1060px;
margin: 24px auto; padding: 0 12px }
h1 { font-size: 22px; margin: 0 0 10px } h2 { font-size: 17px; margin: 26px 0 6px }
table { border-collapse: collapse; margin: 4px 0 } td:first-child { white-space: nowrap }
td, th { padding: 2px 14px 2px 0; text-align: left; vertical-align: top }
.numbers td + td, .numbers th + th { text-align: right; font-variant-numeric: tabular-nums; min-width: 92px }
.numbers .top td { font-weight: 600; border-bottom: 1px solid #c9d1d9 }
.numbers .beside td { color: #56616c } .numbers .first td { border-top: 1px solid #c9d1d9 }
.in td:first-child { padding-left: 18px } .inin td:first-child { padding-left: 36px }
.legend span { display: inline-block; margin-right: 18px; white-space: nowrap } .legend i { display: inline-block; width: 22px;
height: 10px; margin-right: 6px; vertical-align: baseline } .legend i.line { height: 0;
border-top: 3px solid; vertical-align: middle }
svg { width: 100%; height: auto; display: block } svg text { font: 12px system-ui, sans-serif; fill: #1b2733 }
p.note { color: #56616c; margin: 4px 0 }
"""


class Axes(NamedTuple):
    """Where seconds and bytes are in a chart."""

    seconds: float
    top: int
    height: int

    def x(self, seconds: float) -> float:
        """Pixels from the left."""
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(seconds / self.seconds, 1.0)

    def y(self, nbytes: float) -> float:
        """Pixels from above."""
        return self.height - _BELOW - (self.height - _TOP - _BELOW) * min(nbytes / self.top, 1.0)


def html_pieces(report: Report) -> Iterator[str]:
    """The page."""
    title = escape(report.image)
    yield f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Memory of {title}</title>\n'
    yield f"<style>{_STYLE}</style></head><body>\n<h1>Where the memory was: {title}</h1>\n<table>\n"
    for name, text in report.facts():
        yield f"<tr><td>{name}</td><td>{escape(text)}</td></tr>\n"
    yield "</table>\n<h2>All processes together</h2>\n"
    yield from _pile(report)
    yield "<h2>Each process: memory of its own</h2>\n"
    yield from _processes(report)
    yield '<h2>The table</h2>\n<table class="numbers">\n'
    yield "<tr><th>MiB</th><th>at the peak</th><th>at the end</th><th>most</th></tr>\n"
    yield from _table(report)
    yield "</table>\n"
    yield f'<p class="note">The peak was after {report.peak.seconds:.2f} s ({escape(report.peak.stage)}); the most of '
    yield f"each part is its own. {mib(report.kernel)} MiB of the limit were set aside for page tables and stacks.</p>\n"
    yield "<h2>What happened</h2>\n<table>\n"
    for note in sorted([*report.stages, *report.events], key=lambda note: note.seconds):
        yield f"<tr><td>{note.seconds:.2f} s</td><td>{escape(note.text)}</td></tr>\n"
    yield "</table>\n</body></html>\n"


def _table(report: Report) -> Iterator[str]:
    kinds = {0: "top", 1: "in", 2: "in inin", -1: "beside"}
    before = 0
    for line in report.lines():
        kind = kinds[line.level] + (" first" if line.level < 0 <= before else "")
        cells = "".join(f"<td>{mib(value)}</td>" for value in (line.at_peak, line.at_end, line.most))
        yield f'<tr class="{kind}"><td>{escape(line.part)}</td>{cells}</tr>\n'
        before = line.level


def _pile(report: Report) -> Iterator[str]:
    """What is held, piled up, with limit and sum of Rss."""
    most = max(report.most["held"], report.most["rss"])
    # A limit far above would press everything flat.
    shown = report.limit <= 2.5 * most
    axes = Axes(max(report.seconds, 1e-3), _round_top(max(most, report.limit if shown else 0)), _HEIGHT)
    swatches = [(name, colour, "") for name, colour in reversed(_PILE)]
    lines = [("sum of Rss (shared pages again and again)", _RSS, "line")] + ([("limit", _LIMIT, "line")] if shown else [])
    yield _legend([*swatches, *lines])
    yield from _frame(report, axes)
    for k in range(len(_PILE) - 1, -1, -1):
        name, colour = _PILE[k]
        yield f'<path fill="{colour}" d="'
        last = 0.0
        for seconds, values in report.timeline.rows():
            first, last = not last, axes.x(seconds)
            yield f"M{last:.1f},{axes.y(0):.1f}" if first else ""
            yield f"L{last:.1f},{axes.y(_piled(report, values)[k]):.1f}"
        yield f'L{last:.1f},{axes.y(0):.1f}Z"><title>{name}</title></path>\n'
    yield from _curve(report, axes, lambda values: values[0], _HELD, "held by all processes", 1.2)
    yield from _curve(report, axes, lambda values: values[1], _RSS, "sum of Rss", 1.2, "4 3")
    if shown:
        y = axes.y(report.limit)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_LIMIT}" stroke-width="2"/>\n'
        # On the side where the peak isn't.
        left = axes.x(report.peak.seconds) > (_LEFT + _WIDTH) / 2
        at, anchor = (_LEFT + 4, "start") if left else (_WIDTH - _RIGHT - 4, "end")
        yield f'<text x="{at}" y="{y - 5:.1f}" text-anchor="{anchor}" style="fill:{_LIMIT}">'
        yield f"limit {mib(report.limit)} MiB</text>\n"
    yield from _peak(report, axes)
    yield from _events(report, axes)
    yield "</svg>\n"
    if not shown:
        yield f'<p class="note">The limit, {mib(report.limit)} MiB, is far above this chart.</p>\n'


def _piled(report: Report, values: list[int]) -> tuple[int, ...]:
    """Upper edges of the pile; merged samples hold the largest of each, which together may be more than was held."""
    held, _, slab, used, cached = values[: len(VALUES)]
    private = max(held - slab, 0)
    edges = min(report.base, private), private, private + used - cached, private + used, held
    return tuple(min(edge, held) for edge in edges)


def _processes(report: Report) -> Iterator[str]:
    """A line for each process."""
    names = process_names(report)
    axes = Axes(max(report.seconds, 1e-3), _round_top(max([report.most[name] for name in names] + [MIB])), _SECOND_HEIGHT)
    colours = {"parent": _PARENT, "template": _TEMPLATE}
    workers = [name for name in names if name not in colours]
    colours.update({name: _WORKERS[k % len(_WORKERS)] for k, name in enumerate(workers)})
    named = [(name, colours[name], "line") for name in names]
    if len(names) > _MOST_NAMED:
        named = [*named[: len(names) - len(workers)], (f"{len(workers)} workers", _WORKERS[0], "line")]
    yield _legend(named)
    yield from _frame(report, axes)
    for k, name in enumerate(names, len(VALUES)):
        yield from _curve(report, axes, lambda values, k=k: values[k], colours[name], name, 1.6)  # type: ignore[misc]
    yield from _events(report, axes)
    yield "</svg>\n"


def _curve(
    report: Report, axes: Axes, value: Callable[[list[int]], int], colour: str, name: str, width: float, dashes: str = "none"
) -> Iterator[str]:
    """A line over the timeline."""
    yield f'<path fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}" d="'
    letter = "M"
    for seconds, values in report.timeline.rows():
        yield f"{letter}{axes.x(seconds):.1f},{axes.y(value(values)):.1f}"
        letter = "L"
    yield f'"><title>{escape(name)}</title></path>\n'


def _frame(report: Report, axes: Axes) -> Iterator[str]:
    """The head of a drawing: stages, grid and ticks."""
    yield f'<svg viewBox="0 0 {_WIDTH} {axes.height}" role="img">\n'
    taken = [0.0, 0.0]
    ends = [*(note.seconds for note in report.stages[1:]), report.seconds]
    low, high = _TOP, axes.height - _BELOW
    for k, (stage, end) in enumerate(zip(report.stages, ends, strict=True)):
        x, width = axes.x(stage.seconds), axes.x(end) - axes.x(stage.seconds)
        colour = ("#f4f6f8", "#e6ebef")[k % 2]
        yield f'<rect x="{x:.1f}" y="{low}" width="{width:.1f}" height="{high - low}" fill="{colour}">'
        yield f"<title>{escape(stage.text)}: {stage.seconds:.2f} s to {end:.2f} s</title></rect>\n"
        # The name stands in the lower of two lines if there is room, else in the upper one, else nowhere.
        middle, half = x + width / 2, _LETTER * len(stage.text) / 2
        line = next((k for k, end_x in enumerate(taken) if end_x <= middle - half), None)
        if line is not None:
            taken[line] = middle + half + 4
            middle = min(middle, _WIDTH - half)
            yield f'<text x="{middle:.1f}" y="{low - 7 - 15 * line}" text-anchor="middle">{escape(stage.text)}</text>\n'
    step = nice_step(axes.top / MIB, 6) * MIB
    for k in range(int(axes.top // step) + 1):
        y = axes.y(k * step)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#fff"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{k * step / MIB:g}</text>\n'
    step = nice_step(axes.seconds, 10)
    for k in range(int(axes.seconds / step) + 1):
        x = axes.x(k * step)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{high}" y2="{high + 5}" stroke="#56616c"/>'
        yield f'<text x="{x:.1f}" y="{high + 18}" text-anchor="middle">{k * step:g}</text>\n'
    yield f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{axes.height - 6}" text-anchor="middle">seconds</text>\n'
    middle = (low + high) / 2
    yield f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">MiB</text>\n'


def _peak(report: Report, axes: Axes) -> Iterator[str]:
    """A mark at the peak."""
    peak = report.peak
    x, y = axes.x(peak.seconds), axes.y(peak.reading.total)
    anchor = "end" if x > (_LEFT + _WIDTH) / 2 else "start"
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_HELD}"/><text x="{x + (-8 if anchor == "end" else 8):.1f}" '
    # White around it, since it stands on the pile, or on the limit.
    yield f'y="{y + 19:.1f}" text-anchor="{anchor}" style="font-weight:600;paint-order:stroke;stroke:#fff;stroke-width:3px">'
    yield f"peak {mib(report.most['held'])} MiB</text>\n"


def _events(report: Report, axes: Axes) -> Iterator[str]:
    """A mark at each event."""
    # Many lines would hide the chart.
    end = axes.height - _BELOW if len(report.events) <= _MOST_NAMED else _TOP
    for note in report.events:
        x = axes.x(note.seconds)
        yield f'<g><title>{note.seconds:.2f} s: {escape(note.text)}</title><line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
        yield f'y2="{end}" stroke="{_EVENT}" stroke-dasharray="2 3"/><path d="M{x - 6:.1f},{_TOP}h12l-6,10z" fill="{_EVENT}"/>'
        yield "</g>\n"


def _legend(entries: list[tuple[str, str, str]]) -> str:
    """Swatches with names."""
    spans = []
    for name, colour, kind in entries:
        style = f"border-color:{colour}" if kind else f"background:{colour}"
        spans.append(f'<span><i class="{kind}" style="{style}"></i>{escape(name)}</span>')
    return f'<div class="legend">{"".join(spans)}</div>\n'


def _round_top(nbytes: int) -> int:
    """The end of an axis: a little above."""
    step = nice_step(nbytes / MIB, 6) / 2 * MIB
    return int(math.ceil(1.06 * nbytes / step) * step)


def nice_step(length: float, ticks: int) -> float:
    """1, 2 or 5 times a power of ten, so that about so many fit."""
    raw = max(length, 1e-9) / ticks
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= raw * 0.999)
