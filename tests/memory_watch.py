"""Samples what all processes of a marked run hold in memory, as a batch system would count it.

Held = private and file pages (Pss) without shared memory, plus the larger of the shared pages mapped and the blocks
really allocated to memfds and /dev/shm files that the processes hold open.  It sees peaks that last longer than a
sample takes; the kernel's own limit (a memory cgroup) sees all of them, but needs privileges.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

# In the environment of every process of a run, whoever its parent is by now.
MARK = "SEXTRACT_TEST_RUN"
EVERY_S = 0.01


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


def private_and_shared(pid: int) -> tuple[int, int]:
    """Bytes of (Pss, its part that is shared memory) of one process, zeros if it is gone."""
    found = {"Pss": 0, "Pss_Shmem": 0}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in found:
                found[key] = int(rest.split()[0]) << 10
    except OSError:
        pass
    return found["Pss"], found["Pss_Shmem"]


def borrowed(pids: set[int]) -> int:
    """Bytes of file pages, code mostly, that Pss leaves out because others of the machine have the same files mapped."""
    proportional, most = 0, 0
    for pid in pids:
        try:
            rollup, status = (Path(f"/proc/{pid}/{name}").read_text() for name in ("smaps_rollup", "status"))
        except OSError:
            continue
        found = {line.split(":")[0]: line.split()[1] for line in f"{rollup}\n{status}".splitlines() if line.endswith("kB")}
        proportional += int(found.get("Pss_File", 0)) << 10
        most = max(most, int(found.get("RssFile", 0)) << 10)
    # Processes forked from one another map the same files, so the largest has about all of them.
    return max(most - proportional, 0)


def shared_blocks(pids: set[int]) -> int:
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


def held(pids: set[int]) -> int:
    """Bytes that these processes hold together."""
    pss, shared = (
        (sum(column) for column in zip(*(private_and_shared(pid) for pid in pids), strict=True)) if pids else (0, 0)
    )
    return pss - shared + max(shared, shared_blocks(pids))


def rss(pids: set[int]) -> int:
    """Bytes resident in these processes, a shared page once in each that has it mapped."""
    found = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        found += sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmRSS:"))
    return found


class Watch:
    """Samples a run in a thread, from entering to leaving the context.

    Attributes
    ----------
    peak : int
        Largest sum of a sample, bytes.
    rss : int
        Largest sum of Rss, bytes.
    alone, borrowed : int
        The same if nobody else on the machine had the same libraries open; and the most that others saved the run.
    samples : int
        Samples that saw a process.
    """

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.peak = self.rss = self.alone = self.borrowed = self.samples = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(EVERY_S):
            pids = processes(self.mark)
            if pids:
                now, more = held(pids), borrowed(pids)
                self.peak, self.alone = max(self.peak, now), max(self.alone, now + more)
                self.borrowed = max(self.borrowed, more)
                self.rss = max(self.rss, rss(pids))
                self.samples += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
