"""Tables and figure of docs/memory.md, from what bench_malloc.py has measured; it measures nothing itself.

The page is written by hand but for its blocks: what stands between ``<!-- bench_malloc 4096x4096 runs -->`` and
``<!-- end -->`` is made anew, here the table of all runs on a field of that size.  A page without blocks of that
size stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pagetools import MIB, count, distinct, filled, mib, table

PROGRAMS = ("sextract", "processes", "threads")
LABELS = {"sextract": "sextract", "processes": "naive, processes", "threads": "naive, threads"}
HEAD = "program|allocator|workers|limit|held, MiB|over|allocated, MiB|Σ Rss, MiB|wall, s|CPU, s|faster than 1|same bytes"
# A figure larger than this has no place in a repository.
FIGURE_BYTES = 300_000

Run = dict[str, Any]


def bytes_of(limit: str) -> int:
    """512M as bytes."""
    return int(float(limit[:-1]) * (1 << {"K": 10, "M": 20, "G": 30}[limit[-1].upper()]))


def over(run: Run) -> bool:
    """Whether a run held more than its limit."""
    return int(run["held"]) > bytes_of(run["limit"])


class Results:
    """The runs of a record, and what can be said about them together.

    Parameters
    ----------
    made : dict
        The record: facts, machine, missing and runs.
    """

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made
        self.runs: list[Run] = list(made["runs"].values())
        self.limits = sorted(distinct(run["limit"] for run in self.runs), key=bytes_of)
        self.allocators = distinct(run["allocator"] for run in self.runs)
        self.workers = max((run["workers"] for run in self.runs), default=0)

    @property
    def size(self) -> str:
        """Width and height: 4096x4096."""
        return str(self.made["facts"]["size"])

    @property
    def shown_limit(self) -> str:
        """The limit that summary and figure are about: the largest that holds less than half of the pixels."""
        width, height = map(int, self.size.split("x"))
        tight = [limit for limit in self.limits if bytes_of(limit) < 2 * width * height]
        return (tight or self.limits[:1])[-1]

    def find(self, **wanted: Any) -> Run | None:
        """The run with these properties."""
        return next((run for run in self.runs if all(run[name] == value for name, value in wanted.items())), None)

    def of(self, *programs: str) -> list[Run]:
        """Runs of some programmes, by limit, allocator and workers."""
        found = [run for run in self.runs if run["program"] in programs]
        order = {name: rank for rank, name in enumerate([*PROGRAMS, *self.allocators])}
        return sorted(
            found, key=lambda r: (order[r["program"]], bytes_of(r["limit"]), order[r["allocator"]], r["workers"])
        )

    def bytes_wanted(self, program: str) -> str | None:
        """SHA-256 of a programme's first catalogue."""
        return next((run["sha256"] for run in self.runs if run["program"] == program and run["exit"] == 0), None)

    def faults(self) -> list[str]:
        """What runs of sextract did that they must not."""
        wanted = self.bytes_wanted("sextract")
        found = []
        for run in self.of("sextract"):
            name = f"{run['allocator']}, {run['workers']} workers, {run['limit']}"
            if run["exit"] != 0:
                found.append(f"{name}: ended with {run['exit']}")
            elif run["sha256"] != wanted:
                found.append(f"{name}: other bytes")
            if over(run):
                found.append(f"{name}: held {mib(run['held'])} MiB")
        return found

    def ratio(self, run: Run) -> str:
        """How much faster a run is than the same with one worker."""
        one = self.find(**{name: run[name] for name in ("allocator", "program", "limit")}, workers=1)
        if one is None or run["workers"] == 1 or one["exit"] != 0 or run["exit"] != 0:
            return ""
        return f"{one['wall'] / run['wall']:.2f}"

    def row(self, run: Run) -> list[str]:
        """A run as a line of the table."""
        if run["exit"] != 0:
            outcome = f"exit {run['exit']}"
        else:
            outcome = "yes" if run["sha256"] == self.bytes_wanted(run["program"]) else "NO"
        return [
            LABELS[run["program"]],
            run["allocator"],
            f"{run['workers']}" if run["used"] == run["workers"] else f"{run['workers']} ({run['used']} used)",
            run["limit"],
            mib(run["held"]),
            "OVER" if over(run) else "",
            mib(run["allocated"]),
            mib(run["rss"]),
            f"{run['wall']:.1f}",
            f"{run['cpu']:.1f}",
            self.ratio(run),
            outcome,
        ]

    def runs_table(self) -> str:
        """Every run."""
        return table(HEAD.split("|"), map(self.row, self.of(*PROGRAMS)))

    def summary(self) -> str:
        """What each programme held at most under the middle limit, and where it was measured."""
        head = [f"limit {self.shown_limit}: held (allocated), MiB", *self.allocators]
        rows = []
        for program, workers in self.panels():
            line = [f"{LABELS[program]}, {count(workers)}"]
            for allocator in self.allocators:
                run = self.find(allocator=allocator, program=program, workers=workers, limit=self.shown_limit)
                line.append(f"{mib(run['held'])} ({mib(run['allocated'])})" if run else "")
            rows.append(line)
        return f"{self.where()}\n\n{table(head, rows)}"

    def where(self) -> str:
        """The field and the machine, in a sentence or two."""
        m = self.made["machine"]
        first = next((run for run in self.of("sextract") if run["exit"] == 0), None)
        sources = f", {first['rows']:,} sources" if first else ""
        size = self.size.replace("x", " × ")
        text = f"{size} pixels{sources}; {m['cpus']} CPUs ({m['model']}), Linux {m['kernel']}, {m['libc']}, "
        text += f"Python {m['python']}, NumPy {m['numpy']}; {m['date']}."
        more = max((run["alone"] - run["held"] for run in self.of("sextract")), default=0)
        text += f" Pages of libraries that other programs had mapped, too, would make sextract's up to {mib(more)} MiB more."
        missing = self.made["missing"]
        return text + (f" Not installed, so left out: {', '.join(missing)}." if missing else "")

    def panels(self) -> list[tuple[str, int]]:
        """Programme and workers of each row of the figure."""
        return distinct((run["program"], run["workers"]) for run in self.of(*PROGRAMS))


def write_page(page: Path, results: Results, drawing: bool = True) -> bool:
    """Make the blocks of a page anew, and its figure if `drawing`; False if it has none for a field of this size."""
    figure = page.with_name(f"{page.stem}_{results.size}.svg")
    made = {"summary": results.summary(), "runs": results.runs_table()}
    if drawing:
        made["figure"] = f"![Memory over time, limit {results.shown_limit}]({figure.name})\n"
    blocks = {f"bench_malloc {results.size} {name}": content for name, content in made.items()}
    text, found = filled(page.read_text(), blocks)
    if f"bench_malloc {results.size} figure" in found:
        draw(figure, results)
    page.write_text(text)
    return bool(found)


def draw(path: Path, results: Results) -> None:
    """Allocated and held memory over time against the limit, a panel for each allocator and programme."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and names inside the file don't change from one drawing to the next.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sextract", "font.size": 8})
    from matplotlib import pyplot

    panels, limit = results.panels(), results.shown_limit
    shape = (len(panels), len(results.allocators))
    size = (2.3 * shape[1] + 0.7, 1.6 * shape[0] + 0.7)
    figure, axes = pyplot.subplots(*shape, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for line, (program, workers) in zip(axes, panels, strict=True):
        for panel, allocator in zip(line, results.allocators, strict=True):
            run = results.find(allocator=allocator, program=program, workers=workers, limit=limit)
            if run is not None:
                draw_run(panel, run)
            panel.axhline(bytes_of(limit) / MIB, color="#b00020", lw=0.9, ls="--", label="limit")
            panel.set_title(f"{allocator}: {LABELS[program]}, {count(workers)}", fontsize=7)
            panel.set_xlim(left=0)
        line[0].set_ylabel("MiB")
    for panel in axes[-1]:
        panel.set_xlabel("s")
    axes[0][0].set_ylim(bottom=0)
    handles = {label: handle for handle, label in zip(*every_label(axes), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    # Matplotlib leaves blanks at the ends of lines.
    path.write_text("".join(f"{row.rstrip()}\n" for row in path.read_text().splitlines()))
    if path.stat().st_size > FIGURE_BYTES:
        raise ValueError(f"{path} takes {path.stat().st_size} bytes: record fewer points or draw fewer panels")


def draw_run(panel: Any, run: Run) -> None:
    """The lines of one run."""
    line = run["timeline"]
    panel.plot(line["seconds"], [v / MIB for v in line["held"]], color="#1f5fa8", lw=1.1, label="held")
    if line["allocated"]:
        panel.plot(line["seconds"], [v / MIB for v in line["allocated"]], color="#e08a00", lw=0.9, label="allocated")


def every_label(axes: Any) -> tuple[list[Any], list[str]]:
    """Handles and labels of all panels."""
    handles, labels = [], []
    for panel in axes.flat:
        more = panel.get_legend_handles_labels()
        handles += more[0]
        labels += more[1]
    return handles, labels
