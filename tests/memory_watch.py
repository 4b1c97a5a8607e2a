"""Samples what all processes of a marked run hold in memory, as a batch system would count it.

Held = private and file pages (Pss) without shared memory, plus the larger of the shared pages mapped and the blocks
really allocated to memfds and /dev/shm files that the processes hold open.  It sees peaks that last longer than a
sample takes; the kernel's own limit (a memory cgroup) sees all of them, but needs privileges.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

# In the environment of every process of a run, whoever its parent is by now.
MARK = "SEXTRACT_TEST_RUN"
EVERY_S = 0.01
# Between exact looks, /proc is searched for new processes so often.
SEARCH_S = 0.1
# Pages of files come and go while libraries are loaded, from processes that share some of them: beyond this an exact
# look is made.
FILE_STEP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Look:
    """What the processes of a run hold together at one moment, bytes.

    Attributes
    ----------
    seconds : float
        Since the watch began.
    anonymous, file, shared : int
        Heaps and stacks, pages of files, shared memory; a page that processes share counts once.
    rss : int
        Sum of the Rss of all processes, where it counts once for each.
    borrowed : int
        Pages of files, code mostly, that `file` leaves out because others of the machine have the same files mapped.
    """

    seconds: float
    anonymous: int
    file: int
    shared: int
    rss: int
    borrowed: int = 0

    @property
    def held(self) -> int:
        """All of it."""
        return self.anonymous + self.file + self.shared


def processes(mark: str) -> set[int]:
    """Living processes that carry `mark` in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                marked = wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if marked:
                found.add(int(name))
    return found


def _fields(path: str, names: tuple[bytes, ...]) -> list[int] | None:
    """Bytes of ``name: value kB`` lines of a file of /proc, 0 for one that is missing; None if the process is gone."""
    try:
        text = b"\n" + Path(path).read_bytes()
    except OSError:
        return None
    parts = [text.partition(b"\n" + name + b":")[2].split(None, 1) for name in names]
    return [int(part[0]) << 10 if part else 0 for part in parts]


def proportional(pids: Iterable[int]) -> tuple[int, int, int]:
    """Bytes of (anonymous, file, shared) pages mapped, by Pss; each takes the kernel 6 ms per 400 MiB mapped."""
    anonymous = file = shared = 0
    for pid in pids:
        pss, of_heaps, of_shared = _fields(f"/proc/{pid}/smaps_rollup", (b"Pss", b"Pss_Anon", b"Pss_Shmem")) or (0, 0, 0)
        anonymous, file, shared = anonymous + of_heaps, file + pss - of_heaps - of_shared, shared + of_shared
    return anonymous, file, shared


def resident(pids: Iterable[int]) -> dict[int, list[int]]:
    """Bytes of [anonymous, file, shared] pages in each process's own map, for those that are still there."""
    found = {pid: _fields(f"/proc/{pid}/status", (b"RssAnon", b"RssFile", b"RssShmem")) for pid in pids}
    return {pid: parts for pid, parts in found.items() if parts and any(parts)}


def rss(pids: Iterable[int]) -> int:
    """Bytes resident in these processes, a shared page once in each that has it mapped."""
    return sum(map(sum, resident(pids).values()))


def shared_blocks(pids: Iterable[int]) -> int:
    """Bytes allocated to the shared-memory files that these processes hold open, each file once."""
    files: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            for handle in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{handle}"
                if os.readlink(path).startswith(("/memfd:", "/dev/shm/")):
                    status = os.stat(path)
                    files[status.st_dev, status.st_ino] = status.st_blocks * 512
        except OSError:
            continue
    return sum(files.values())


def held(pids: Iterable[int]) -> int:
    """Bytes that these processes hold together."""
    return Meter().look(set(pids)).held


# Looks at processes while some of them end.
TRIES = 5


class Meter:
    """Looks at processes, exactly or nearly.

    An exact look walks over all that is mapped, and holds up who wants to map more.  Where that is too dear it is done
    now and then; between, Σ RssAnon and the largest RssFile, which move by the same amounts, are corrected by what they
    were off at the last exact look.

    Parameters
    ----------
    exact_share : float
        Part of the time that exact looks may take; 1: all are exact.  One is also made when a process or many pages
        of files came or went.

    Attributes
    ----------
    began : float
        Monotonic seconds from which looks are counted.
    """

    def __init__(self, exact_share: float = 1.0) -> None:
        self._exact_share = exact_share
        self.began = time.monotonic()
        self._spent = 0.0
        self._pids: set[int] = set()
        self._file = 0
        # What the quick numbers are off: anonymous, file, and shared memory that no open file has.
        self._off = (0, 0, 0)

    def look(self, pids: set[int]) -> Look:
        """What they hold now."""
        now = time.monotonic()
        for left in reversed(range(TRIES)):
            each = resident(pids)
            shared = shared_blocks(each)
            quick = (sum(parts[0] for parts in each.values()), max((parts[1] for parts in each.values()), default=0))
            changed = set(each) != self._pids or abs(quick[1] - self._file) > FILE_STEP_BYTES
            if not changed and self._spent > self._exact_share * (now - self.began):
                break
            began = time.monotonic()
            anonymous, file, mapped = proportional(each)
            self._spent += time.monotonic() - began
            after = resident(each)
            # What one maps after another that has it was read counts by half too much.
            mapped -= sum(abs(after[pid][2] - each[pid][2]) for pid in after) // 2
            # What a process that ends meanwhile shares counts twice: with it, and with those that have it alone then.
            if not left or set(after) == set(each):
                self._off = (quick[0] - anonymous, quick[1] - file, min(shared - mapped, 0))
                self._pids, self._file = set(each), quick[1]
                break
        parts = (max(value - off, 0) for value, off in zip((*quick, shared), self._off, strict=True))
        # Processes forked from one another map the same files, so the largest has about all of them.
        return Look(now - self.began, *parts, sum(map(sum, each.values())), max(self._off[1], 0))


class Watch:
    """Samples a run in a thread, from entering to leaving the context.

    Parameters
    ----------
    mark : str
        What the run's processes carry in their environment.
    exact_share : float
        As for `Meter`; below 1 a look takes about a millisecond.

    Attributes
    ----------
    peak : int
        Largest sum of a sample, bytes.
    alone, borrowed : int
        The same if nobody else on the machine had the same libraries open; and the most that others saved the run.
    rss : int
        Largest sum of Rss, bytes.
    samples : int
        Samples that saw a process.
    looks : list of Look
        All of them.
    """

    def __init__(self, mark: str, exact_share: float = 1.0) -> None:
        self.mark = mark
        self.looks: list[Look] = []
        self._search_s = SEARCH_S if exact_share < 1.0 else 0.0
        self._meter = Meter(exact_share)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def began(self) -> float:
        """Monotonic seconds from which looks are counted."""
        return self._meter.began

    @property
    def peak(self) -> int:
        return max((look.held for look in self.looks), default=0)

    @property
    def alone(self) -> int:
        return max((look.held + look.borrowed for look in self.looks), default=0)

    @property
    def borrowed(self) -> int:
        return max((look.borrowed for look in self.looks), default=0)

    @property
    def rss(self) -> int:
        return max((look.rss for look in self.looks), default=0)

    @property
    def samples(self) -> int:
        return len(self.looks)

    def _sample(self) -> None:
        searched = float("-inf")
        pids: set[int] = set()
        due = time.monotonic()
        # A pause after a look that took longer than it should, so that the run isn't held up all the time.
        while not self._over.wait(max(due - time.monotonic(), EVERY_S / 2)):
            now = due = time.monotonic()
            due += EVERY_S
            if now - searched >= self._search_s:
                pids, searched = processes(self.mark), now
            if pids:
                self.looks.append(self._meter.look(pids))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
