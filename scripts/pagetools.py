"""Markdown that the pages of benchmarks are made of; what they say is in ``malloc_page.py`` and ``performance_page.py``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MIB = 1 << 20


def mib(value: float | None) -> str:
    """Bytes as MiB, rounded up: a number that stands beside a limit must not flatter."""
    return "–" if value is None else f"{-int(-value // MIB):,}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows]) + "\n"


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, in order of appearance."""
    return list(dict.fromkeys(values))


def count(workers: int) -> str:
    """4 workers."""
    return f"{workers} worker{'s' * (workers != 1)}"


def filled(text: str, made: Mapping[str, str]) -> tuple[str, set[str]]:
    """A page whose blocks ``<!-- name -->`` to ``<!-- end -->`` have new content, and the names that were found."""
    found = set()
    for name, content in made.items():
        begin = f"<!-- {name} -->\n"
        block = re.compile(rf"({re.escape(begin)}).*?(<!-- end -->)", re.DOTALL)
        text, times = block.subn(lambda m, new=content: f"{m[1]}{new}{m[2]}", text)
        found |= {name} if times else set()
    return text, found
