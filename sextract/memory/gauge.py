"""What all processes of a run really hold: private memory, file pages once, and the slab once.

The number is the one the limit is about: Σ Pss without shared memory, plus what the slab has allocated.  Exact Pss
takes the kernel milliseconds, so between two exact looks the gauge follows Σ RssAnon + largest RssFile, which move by
the same amounts but count what forked processes share more than once; the difference is taken from the last exact
look.  It measures; who acts on it is the pipeline.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

# Exact Pss costs 6 ms per 400 MiB mapped.
_EXACT_SECONDS = 1.0


class Holder(Protocol):
    """Whatever holds shared memory."""

    @property
    def allocated(self) -> int:
        """Bytes that the kernel holds for it."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """One look: bytes of the slab, of everything else, and whether the latter are exact."""

    shared: int
    private: int
    exact: bool

    @property
    def total(self) -> int:
        """Bytes that count against the limit."""
        return self.shared + self.private


def _fields(path: str, *names: bytes) -> tuple[int, ...] | None:
    """``name: value kB`` lines of a /proc file, bytes; None if the process is gone, 0 for a line that is missing."""
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.read(16384) or b""
    except OSError:
        return None
    values = []
    for name in names:
        at = text.find(b"\n" + name + b":")
        values.append(int(text[at + len(name) + 2 :].split(None, 1)[0]) << 10 if at >= 0 else 0)
    return tuple(values)


def resident(pid: int) -> tuple[int, int]:
    """Anonymous and file-backed resident bytes of a process, shared memory not included; zeros if it is gone."""
    anonymous, file = _fields(f"/proc/{pid}/status", b"RssAnon", b"RssFile") or (0, 0)
    return anonymous, file


def proportional(pid: int) -> int | None:
    """Pss without shared memory, bytes; None if it can't be read."""
    fields = _fields(f"/proc/{pid}/smaps_rollup", b"Pss", b"Pss_Shmem")
    return None if fields is None or fields[0] == 0 else fields[0] - fields[1]


class Gauge:
    """Measures a set of processes and a slab.

    Parameters
    ----------
    pids : callable
        ``() -> process ids`` beside this process's own, which always counts.
    slab : Holder or None
        None while there is no slab yet: the base.
    clock : callable, optional
        Seconds, monotonic.
    """

    def __init__(
        self,
        pids: Callable[[], Iterable[int]],
        slab: Holder | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pids = pids
        self._slab = slab
        self._clock = clock
        self._checked_at = -_EXACT_SECONDS
        self._checked_pids: frozenset[int] = frozenset()
        self._shared_twice = 0
        self.peak = 0
        self.last = Reading(0, 0, exact=False)

    def sample(self) -> int:
        """Bytes held now; also updates ``last`` and ``peak``."""
        return self.read().total

    def exact(self) -> int:
        """As `sample`, with exact Pss whatever it costs."""
        return self.read(exact=True).total

    def read(self, exact: bool = False) -> Reading:
        """A look at everything."""
        pids = frozenset([os.getpid(), *self._pids()])
        rough = self._rough(pids)
        now = self._clock()
        due = exact or now - self._checked_at >= _EXACT_SECONDS or pids != self._checked_pids
        private = self._exact(pids) if due else None
        if private is not None:
            self._shared_twice = rough - private
            self._checked_at, self._checked_pids = now, pids
        elif due:
            # No smaps_rollup here: counting too much is the safe side.
            self._shared_twice, self._checked_at, self._checked_pids = 0, now, pids
        shared = self._slab.allocated if self._slab is not None else 0
        self.last = Reading(shared, max(rough - self._shared_twice, 0), exact=private is not None)
        self.peak = max(self.peak, self.last.total)
        return self.last

    def _rough(self, pids: frozenset[int]) -> int:
        found = [resident(pid) for pid in pids]
        return sum(anonymous for anonymous, _ in found) + max((file for _, file in found), default=0)

    def _exact(self, pids: frozenset[int]) -> int | None:
        if proportional(os.getpid()) is None:
            return None
        total = 0
        for pid in pids:
            value = proportional(pid)
            # Gone and unreadable look the same; a process that is gone has no resident pages either.
            total += sum(resident(pid)) if value is None else value
        return total
