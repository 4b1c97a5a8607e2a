"""Watches what each worker of an engine holds with all that it has started, while a survey runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.faults.harness import parent_of
from tests.memory_watch import EVERY_S, SEARCH_S, Meter

# Exact looks take this part of the time at most.
EXACT_SHARE = 0.2


def below(roots: set[int], pids: set[int]) -> dict[int, set[int]]:
    """Each root with its descendants among some processes."""
    parents = {pid: parent_of(pid) for pid in pids}
    trees = {root: {root} for root in roots}
    for pid in pids:
        path = [pid]
        while (at := parents.get(path[-1], 0)) and at not in roots:
            path.append(at)
        if at in roots and pid not in roots:
            trees[at].add(pid)
    return trees


@dataclass
class Tree:
    """What a worker held at most.

    Attributes
    ----------
    peak : int
        Bytes.
    alone : int
        The same if nobody else had the same libraries open.
    looks : int
    """

    peak: int = 0
    alone: int = 0
    looks: int = 0


class TreeWatch:
    """Samples trees of processes in a thread, from entering to leaving the context.

    Parameters
    ----------
    find : callable
        ``() -> {root: its processes}``.

    Attributes
    ----------
    trees : dict of int to Tree
        By root.
    """

    def __init__(self, find: Callable[[], Mapping[int, set[int]]]) -> None:
        self._find = find
        self.trees: dict[int, Tree] = {}
        self._meters: dict[int, Meter] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        searched, found = float("-inf"), {}
        while not self._over.wait(EVERY_S):
            if time.monotonic() - searched >= SEARCH_S:
                found, searched = dict(self._find()), time.monotonic()
            for root, pids in found.items():
                look = self._meters.setdefault(root, Meter(EXACT_SHARE)).look(pids)
                tree = self.trees.setdefault(root, Tree())
                tree.peak, tree.alone = max(tree.peak, look.held), max(tree.alone, look.held + look.borrowed)
                tree.looks += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
