"""Tables and figure of docs/performance.md, from what bench.py has measured; it measures nothing itself.

The page is written by hand but for its blocks: what stands between ``<!-- bench compare -->`` and ``<!-- end -->`` is
made anew, and likewise for the other parts of `Results.blocks`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import trace_model
from pagetools import count, distinct, filled, mib, table
from trace_model import Work

Run = dict[str, Any]
LABELS = {"sextract": "sextract", "SExtractor": "SExtractor", "sep": "sep, no CLEAN", "photutils": "photutils"}
# An exponent further from 1 isn't linear.
LINEAR = 0.1
# Less of CPU beyond the start can't be told from what one run differs from another.
SEEN_SECONDS = 0.08
# Numbers of workers that the model is asked about, and the side of the image it is enlarged to.
CROWDS, LARGE = (1, 2, 4, 8, 16, 32, 64), 30000
# What the parent's CPU may be of its workers', at most.
PARENT_SHARE = 0.05


def median(values: Sequence[float], form: str = ".2f") -> str:
    """The median and, where there are several, the range."""
    if not values:
        return "–"
    middle = f"{statistics.median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}–{max(values):{form}})"


def exponent(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Of the power of x that y, seconds, grows with, by least squares of logarithms; None if there is too little."""
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True) if a > 0 and b > SEEN_SECONDS]
    if len({a for a, _ in logs}) < 2:
        return None
    u, v = statistics.mean(a for a, _ in logs), statistics.mean(b for _, b in logs)
    return sum((a - u) * (b - v) for a, b in logs) / sum((a - u) ** 2 for a, _ in logs)


def judged(power: float | None) -> str:
    """An exponent, and whether that is linear."""
    if power is None:
        return "–"
    return f"{power:.2f}" + ("" if power <= 1 + LINEAR else ", **more than linear**")


def shown(field: str, size: str) -> str:
    """A field as the page has it: plain, 8192 × 8192."""
    kind = field.rpartition(":")[0] or field
    return f"{kind}, {size.replace('x', ' × ')}"


def pixels(run: Run) -> int:
    """Of the field of a run."""
    return math.prod(map(int, run["size"].split("x")))


class Results:
    """The runs of a record, and what can be said about them together.

    Parameters
    ----------
    made : dict
        The record: facts, machine, missing, workers and runs.
    """

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made
        self.runs: list[Run] = [run for run in made["runs"].values() if run["exit"] == 0]
        self.workers = int(made["workers"])

    def of(self, section: str, **wanted: Any) -> list[Run]:
        """Runs of a section with these properties."""
        return [r for r in self.runs if r["section"] == section and all(r[name] == v for name, v in wanted.items())]

    def text(self) -> str:
        """All tables."""
        return "\n".join(part for part in self.blocks().values() if part)

    def blocks(self) -> dict[str, str]:
        """What the page has, by the names of its blocks; empty where nothing was measured."""
        return {
            "where": self.where(),
            "compare": self.compare(),
            "stages": self.stages(),
            "sizes": self.growth("size", "pixels, million", lambda r: pixels(r) / 1e6),
            "sources": self.growth("sources", "sources found", lambda r: r["rows"]),
            "giants": self.growth("giant", "pixels of the object, million", lambda r: pixels(r) / 1e6),
            "workers": self.measured_and_predicted(),
            "model": self.model(),
        }

    def where(self) -> str:
        """Machine and versions, in a sentence or two."""
        m, facts = self.made["machine"], self.made["facts"]
        text = f"{m['cpus']} CPUs ({m['model']}), Linux {m['kernel']}, {m['libc']}, Python {m['python']}, NumPy {m['numpy']}; "
        text += f"{facts['versions']}; `--mem-limit {facts['limit']}`; {m['date']}."
        missing = ", ".join(LABELS[name] for name in self.made["missing"])
        return text + (f" Not installed, so left out: {missing}." if missing else "") + "\n"

    # Beside others

    def compare(self) -> str:
        """Every program on every field, and the ratio to ours pair by pair."""
        rows = []
        fields = distinct(r["field"] for r in self.of("compare"))
        there = {(r["field"], r["program"]) for r in self.of("compare")}
        for field, program in (pair for pair in itertools.product(fields, LABELS) if pair in there):
            runs, ours = self.of("compare", field=field, program=program), self.of("compare", field=field, program="sextract")
            held = self.of("held", field=field, program=program)
            name = LABELS[program] + (f", {count(runs[0]['workers'])}" if program == "sextract" else "")
            sources = f"{runs[0]['rows']:,}"
            if runs[0]["blended"] is not None and runs[0]["rows"]:
                sources += f" ({100 * runs[0]['blended'] / runs[0]['rows']:.0f} %)"
            ratios = ["", ""] if program == "sextract" else [median(pairs(runs, ours, what), ".1f") for what in ("wall", "cpu")]
            peak = mib(held[0]["held"]) if held else "–"
            times = [median([r[what] for r in runs]) for what in ("wall", "cpu")]
            rows.append([shown(field, runs[0]["size"]), name, *times, peak, sources, *ratios])
        head = ["field", "program", "wall, s", "CPU, s", "held, MiB", "sources (blended)", "wall, × ours", "CPU, × ours"]
        return table(head, rows) if rows else ""

    def stages(self) -> str:
        """Where the CPU time of all processes went, a column for each field."""
        runs = self.of("profile")
        if not runs:
            return ""
        seconds = [run["breakdown"]["stages"] for run in runs]
        total: dict[str, float] = defaultdict(float)
        for one in seconds:
            for name, value in one.items():
                total[name] += value / sum(one.values())
        large = {name for one in seconds for name, value in one.items() if value >= 5e-4}
        names = sorted(large, key=lambda name: -total[name])
        rows = [[name, *(f"{one.get(name, 0.0):.3f}" for one in seconds)] for name in names]
        rows.append(["**together**", *(f"{sum(one.values()):.2f}" for one in seconds)])
        rows.append(["idle, each worker, s", *(", ".join(f"{s:.2f}" for s in run["breakdown"]["idle"]) for run in runs)])
        shares = [run["breakdown"]["parent_share"] for run in runs]
        asked = f"parent's CPU after start-up, of the workers' (≤ {PARENT_SHARE:.0%} asked)"
        rows.append([asked, *("–" if share is None else f"{100 * share:.1f} %" for share in shares)])
        return table(["CPU, s", *(shown(run["field"], run["size"]) for run in runs)], rows)

    # Growth

    def start(self) -> float:
        """CPU of a run with nothing to do."""
        return min((r["cpu"] for r in self.of("start", workers=self.workers) or self.of("start")), default=0.0)

    def growth(self, kind: str, what: str, x: Callable[[Run], float]) -> str:
        """How time grows over fields of a kind, from one to the next, and whether that is linear."""
        fields = distinct(r["field"] for r in self.of("scaling") if r["field"].startswith(f"{kind}:"))
        if not fields:
            return ""
        best = [min(self.of("scaling", field=field), key=lambda r: r["cpu"]) for field in fields]
        walls = [min(r["wall"] for r in self.of("scaling", field=field)) for field in fields]
        # What doesn't grow: the start and, where sources are added to one field, its pixels.
        fixed, few = (best[0]["cpu"], x(best[0])) if kind == "sources" else (self.start(), 0.0)
        xs, ys = [x(run) - few for run in best], [run["cpu"] - fixed for run in best]
        steps = ["", *(judged(exponent(xs[k : k + 2], ys[k : k + 2])) for k in range(len(best) - 1))]
        names = {"size": "size", "sources": "simulated", "giant": "size"}
        rows = [
            [
                f"{int(run['field'].rpartition(':')[2]):,}" if kind == "sources" else run["size"].replace("x", " × "),
                f"{x(run):,.0f}" if kind == "sources" else f"{x(run):,.2f}",
                *([] if kind == "sources" else [f"{run['rows']:,}"]),
                f"{100 * (run['blended'] or 0) / max(run['rows'], 1):.0f} %",
                f"{wall:.2f}",
                f"{run['cpu']:.2f}",
                "" if a <= 0 or b < SEEN_SECONDS else f"{1e6 * b / a:.0f}" if kind == "sources" else f"{b / a:.4f}",
                step,
            ]
            for run, wall, a, b, step in zip(best, walls, xs, ys, steps, strict=True)
        ]
        each = "CPU, µs a source" if kind == "sources" else "CPU, s a million"
        more = [] if kind == "sources" else ["sources found"]
        text = table([names[kind], what, *more, "blended", "wall, s", "CPU, s", each, "exponent"], rows)
        text += f"\nExponent over all: {judged(exponent(xs, ys))}."
        idle = self.of("start", workers=self.workers)
        if kind == "size" and idle:
            size = shown("", idle[0]["size"])[2:]
            text += f" A run on {size} pixels takes {idle[0]['wall']:.2f} s, {idle[0]['cpu']:.2f} s of CPU."
        return text + "\n"

    # The model

    def works(self) -> dict[int, tuple[Work, bool]]:
        """Recorded tasks by the image's side, and whether they were recorded at that size."""
        spawn = self.spawn()
        found: dict[int, tuple[Work, bool]] = {}
        for run in self.of("profile"):
            if run["field"].startswith(("plain:", "size:")):
                parts = {name: tuple(v) if isinstance(v, list) else v for name, v in run["work"].items()}
                side = int(run["size"].partition("x")[0])
                found[side] = replace(Work(**parts), spawn=spawn), True
        largest = max(found, default=0)
        # A few tasks tell nothing of many.
        if LARGE > largest > LARGE / 8:
            found[LARGE] = trace_model.enlarged(found[largest][0], LARGE / largest), False
        return dict(sorted(found.items())[-2:])

    def spawn(self) -> float:
        """What one more worker costs those that start it, seconds."""
        runs = self.of("start")
        costs = {r["workers"]: r["breakdown"]["cpu"]["parent"] + r["breakdown"]["cpu"].get("template", 0.0) for r in runs}
        if len(costs) < 2:
            return 0.0
        few, many = min(costs), max(costs)
        return float(max(costs[many] - costs[few], 0.0) / (many - few))

    def measured_and_predicted(self) -> str:
        """Runs with one worker and more on this machine, and what the model says of them."""
        rows, runs = [], self.of("workers")
        if not runs:
            return ""
        walls = {n: [r["wall"] for r in runs if r["workers"] == n] for n in distinct(r["workers"] for r in runs)}
        side = int(runs[0]["size"].partition("x")[0])
        found = self.works().get(side)
        one = min(walls[min(walls)])
        for n, wall in sorted(walls.items()):
            cpu = [r["cpu"] for r in self.of("workers", workers=n)]
            says = trace_model.predicted(found[0], n, int(self.made["machine"]["cpus"])) if found else math.nan
            # The model's run is one that nothing else disturbs.
            off = 100 * (says / min(wall) - 1)
            speedup = f"{one / min(wall):.2f}"
            rows.append([str(n), median(wall), median(cpu), speedup, f"{says:.2f}", f"{off:+.0f} %"])
        head = ["workers", "wall, s", "CPU, s", "faster than 1", "the model says, s", "off the shortest by"]
        return f"{side} × {side} pixels:\n\n" + table(head, rows)

    def model(self) -> str:
        """What many workers with a core each would do, and what binds."""
        parts = []
        for side, (work, recorded) in self.works().items():
            rows = []
            for n in CROWDS:
                b = trace_model.bounds(work, n)
                saved = sorted(((s, name) for name, s in b["saved"].items() if s > 0.005 * b["wall"]), reverse=True)
                costs = ", ".join(f"{name} {s:.2f} s" for s, name in saved[:3])
                rows.append([str(n), f"{b['wall']:.2f}", f"{100 * b['efficiency']:.0f} %", costs or "–"])
            how = "its own record" if recorded else "the record of the smaller one, enlarged"
            head = ["workers", "wall, s", "efficiency", "what would be saved if it took no time"]
            parts.append(f"{side} × {side} pixels, from {how}:\n\n{table(head, rows)}")
        return "\n".join([*parts, self.plans()]) if parts else ""

    def plans(self) -> str:
        """What the limit leaves for tiles when many workers share it."""
        run = next((r for r in self.of("profile") if r["field"].startswith("plain:") and "plans" in r), None)
        if run is None:
            return ""
        head = [f"`--mem-limit {self.made['facts']['limit']}` for {shown(run['field'], run['size'])}", "workers", "tiles"]
        rows = [[count(int(n)), plan.get("workers", ""), plan.get("tiles", "")] for n, plan in run["plans"].items()]
        return table(head, rows)


def pairs(theirs: Sequence[Run], ours: Sequence[Run], what: str) -> list[float]:
    """Ratios of runs in the same round."""
    mine = {run["turn"]: run[what] for run in ours}
    return [run[what] / mine[run["turn"]] for run in theirs if mine.get(run["turn"])]


def write_page(page: Path, results: Results) -> None:
    """Make the blocks of a page anew, and its figure; blocks that nothing was measured for stay."""
    figure = page.with_name(f"{page.stem}.svg")
    blocks = {f"bench {name}": content for name, content in results.blocks().items() if content}
    if results.works():
        blocks["bench figure"] = f"![Wall time and workers]({figure.name})\n"
        figure.write_text(drawing(results))
    page.write_text(filled(page.read_text(), blocks)[0])


def drawing(results: Results) -> str:
    """Wall time over workers by the model and as measured, both axes logarithmic, as SVG."""
    lines = {
        f"{side} × {side}": [(n, trace_model.predicted(work, n)) for n in CROWDS] for side, (work, _) in results.works().items()
    }
    dots = [(r["workers"], r["wall"]) for r in results.of("workers")]
    values = [wall for line in lines.values() for _, wall in line] + [wall for _, wall in dots]
    low, high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
    x = lambda n: 60 + 480 * math.log2(n) / math.log2(CROWDS[-1])  # noqa: E731
    y = lambda s: 250 - 220 * (math.log10(s) - low) / (high - low)  # noqa: E731
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 290" font-family="sans-serif" font-size="11">']
    parts.append('<rect width="640" height="290" fill="white"/>')
    for n in CROWDS:
        parts.append(f'<path d="M{x(n):.1f} 30V250" stroke="#ddd"/>')
        parts.append(f'<text x="{x(n):.1f}" y="264" text-anchor="middle">{n}</text>')
    for power, digit in itertools.product(range(-2, 5), (1, 2, 5)):
        s = digit * 10.0**power
        if low <= math.log10(s) <= high:
            parts.append(f'<path d="M60 {y(s):.1f}H540" stroke="#ddd"/>')
            parts.append(f'<text x="54" y="{y(s) + 4:.1f}" text-anchor="end">{s:g}</text>')
    for (name, line), colour in zip(lines.items(), ("#1f5fa8", "#e08a00"), strict=False):
        path = " ".join(f"{x(n):.1f},{y(wall):.1f}" for n, wall in line)
        ideal = " ".join(f"{x(n):.1f},{max(y(line[0][1] / n), 30):.1f}" for n in CROWDS if line[0][1] / n >= 10**low)
        parts.append(f'<polyline points="{ideal}" fill="none" stroke="{colour}" stroke-dasharray="3 3" opacity="0.6"/>')
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="546" y="{y(line[-1][1]) + 4:.1f}" fill="{colour}">{name}</text>')
    parts += [f'<circle cx="{x(n):.1f}" cy="{y(wall):.1f}" r="3" fill="#b00020"/>' for n, wall in dots if n <= CROWDS[-1]]
    parts.append('<text x="300" y="282" text-anchor="middle">workers, a core each</text>')
    parts.append('<text x="60" y="20">wall time, s: model (lines), measured (dots), work divided by workers (dashed)</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
