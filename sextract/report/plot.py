"""Draws a memory report: JSON on standard input, a PNG on standard output.

A program of its own, run when all else is done, so that matplotlib is in no process of a run.  It shows what the page
(``page.py``) shows.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

MIB = 1 << 20
PILE = (
    ("interpreter and libraries", "#7f8c99"),
    ("heaps", "#d55e00"),
    ("buffers in use", "#0072b2"),
    ("cached tiles (could be given up)", "#56b4e9"),
    ("free, kept for reuse", "#cfe8f7"),
)
WORKERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8e44ad", "#a0522d")
# Columns of a sample before the processes: seconds, held, rss, slab, used, cached.
FIRST_PROCESS = 6
MOST_NAMED = 12


def main() -> None:
    """Draw."""
    report = json.load(sys.stdin)
    figure = Figure(figsize=(12, 10.5), dpi=100, layout="constrained")
    pile, processes, table = figure.subplots(3, 1, height_ratios=(3.2, 1.8, 2.6))
    peak = report["peak_bytes"] / MIB
    figure.suptitle(f"Where the memory was: {report['image']}", fontsize=14, fontweight="bold")
    _pile(pile, report)
    _processes(processes, report)
    for axes in (pile, processes):
        _stages(axes, report)
    at = report["peak"]["seconds"]
    side = {"ha": "right", "xytext": (-6, -14)} if at > report["seconds"] / 2 else {"ha": "left", "xytext": (6, -14)}
    pile.plot(at, peak, "o", color="#1b2733")
    said = pile.annotate(f"peak {peak:.1f} MiB", (at, peak), textcoords="offset points", fontweight="bold", **side)
    said.set_path_effects([withStroke(linewidth=3, foreground="white")])
    _table(table, report)
    figure.savefig(sys.stdout.buffer, format="png")


def _columns(report: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds, and MiB of each column."""
    unit = report["unit_bytes"] / MIB
    columns = {name: [row[k] for row in report["samples"]] for k, name in enumerate(report["columns"])}
    return {name: values if name == "seconds" else [v * unit for v in values] for name, values in columns.items()}


def _pile(axes: Any, report: dict[str, Any]) -> None:
    """What is held, piled up, with limit and sum of Rss."""
    c, base, limit = _columns(report), report["base_bytes"] / MIB, report["limit_bytes"] / MIB
    heights: list[list[float]] = [[] for _ in PILE]
    for held, slab, used, cached in zip(c["held"], c["slab"], c["used"], c["cached"], strict=True):
        private, below = max(held - slab, 0.0), 0.0
        edges = min(base, private), private, private + used - cached, private + used, held
        for height, edge in zip(heights, edges, strict=True):
            height.append(max(min(edge, held) - below, 0.0))
            below = max(min(edge, held), below)
    names, colours = zip(*PILE, strict=True)
    axes.stackplot(c["seconds"], *heights, labels=names, colors=colours)
    axes.plot(c["seconds"], c["held"], color="#1b2733", linewidth=1)
    told = "sum of Rss (shared pages again and again)"
    axes.plot(c["seconds"], c["rss"], color="#8e44ad", linewidth=1, linestyle="--", label=told)
    most = max(*c["held"], *c["rss"])
    if limit <= 2.5 * most:
        axes.axhline(limit, color="#c00000", linewidth=2, label=f"limit {limit:.0f} MiB")
        most = max(most, limit)
    else:
        axes.plot([], [], " ", label=f"limit {limit:.0f} MiB, far above")
    axes.set_ylim(0, 1.08 * most)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.set_ylabel("MiB, all processes together")


def _processes(axes: Any, report: dict[str, Any]) -> None:
    """A line for each process."""
    c, names = _columns(report), report["columns"][FIRST_PROCESS:]
    known = {"parent": "#1b2733", "template": "#999999"}
    for k, name in enumerate(names):
        told = name if len(names) <= MOST_NAMED or name in known else f"{len(names) - 2} workers" if k == 2 else None
        axes.plot(c["seconds"], c[name], color=known.get(name, WORKERS[(k - 2) % len(WORKERS)]), label=told)
    axes.set_ylim(0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.set_ylabel("MiB of its own")
    axes.set_xlabel("seconds")


def _stages(axes: Any, report: dict[str, Any]) -> None:
    """Bands with the names of the stages, and a mark at each event."""
    axes.set_xlim(0, report["seconds"])
    axes.grid(axis="y", color="white")
    axes.set_axisbelow(True)
    ends = [*(stage["seconds"] for stage in report["stages"][1:]), report["seconds"]]
    for k, (stage, end) in enumerate(zip(report["stages"], ends, strict=True)):
        axes.axvspan(stage["seconds"], end, color=("#f4f6f8", "#e6ebef")[k % 2], zorder=0)
        if end - stage["seconds"] > 0.009 * len(stage["text"]) * report["seconds"]:
            axes.text(
                (stage["seconds"] + end) / 2, 1.01, stage["text"], ha="center", va="bottom", fontsize=9,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    for event in report["events"]:
        if len(report["events"]) <= MOST_NAMED:
            axes.axvline(event["seconds"], color="#c00000", linewidth=1, linestyle=":")
        axes.plot(event["seconds"], 0.98, "v", color="#c00000", transform=axes.get_xaxis_transform())


def _table(axes: Any, report: dict[str, Any]) -> None:
    """The table, and what happened, as text."""
    axes.axis("off")
    largest = report["largest_process"]
    lines = [f"{'MiB':<46}{'at the peak':>12}{'at the end':>12}{'most':>10}"]
    for line in report["table"]:
        values = (line["at_peak_bytes"], line["at_end_bytes"], line["most_bytes"])
        texts = ["" if value is None else f"{value / MIB:.1f}" for value in values]
        part = "  " * max(line["level"], 0) + line["part"]
        lines.append(f"{part:<46}{texts[0]:>12}{texts[1]:>12}{texts[2]:>10}")
    lines += ["", f"largest process: {largest['name']}, {largest['bytes'] / MIB:.1f} MiB of its own"]
    lines += [f"{event['seconds']:.2f} s: {event['text']}"[:125] for event in report["events"][:3]]
    if len(report["events"]) > 3:
        lines.append(f"and {len(report['events']) - 3} more")
    axes.text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=9, transform=axes.transAxes)


if __name__ == "__main__":
    main()
