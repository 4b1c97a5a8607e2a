"""Splits the memory limit, and counts what was lent out under which name.

Arithmetic only: nothing is allocated, read or measured here.  What is really held is ``gauge.py``'s business, who may
have which bytes is ``slab.py``'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sextract.errors import LimitError

MIB = 1 << 20

# Small objects only (no array above 64 KiB comes from malloc): messages, dictionaries, the arenas that hold them, and pages
# shared since the fork that a process writes to later.  Of four processes over 60 million pixels and 30,000 sources, together:
# 8.5 MiB.
HEAP_PER_PROCESS = 9 * MIB // 4

# Kernel stack, descriptors, page tables of code and heap, one pipe: charged to a cgroup, in no process's Pss.
KERNEL_PER_PROCESS = 384 * 1024

# One 8-byte page-table entry per 4096-byte page, in every process that touches the page.
PAGE_TABLE_SHARE = 512

# The slab grows in pieces of this size.
GRANULE = 64 * 1024


def size_text(nbytes: int) -> str:
    """A size as it is written after ``--mem-limit``, rounded up: ``96M``."""
    return f"{-(-nbytes // MIB)}M"


class Budget(NamedTuple):
    """The limit, split: base + heaps + the kernel's share + the slab.

    Attributes
    ----------
    limit : int
        Bytes that all processes together may hold.
    base : int
        Bytes they hold after imports, measured in this run.
    processes : int
        Parent, template and workers.
    heap_per_process, kernel_per_process : int
        Allowances, bytes.
    pages : int
        Of check-images on their way to the disk: in no process's memory, but a cgroup counts them.
    base_rss : int
        Where the sum of Rss is to keep the limit too: that sum without shared memory; else 0.
    """

    limit: int
    base: int
    processes: int
    heap_per_process: int = HEAP_PER_PROCESS
    kernel_per_process: int = KERNEL_PER_PROCESS
    pages: int = 0
    base_rss: int = 0

    @property
    def fixed(self) -> int:
        """What is spoken for before the first buffer."""
        return self.base + self.pages + self.processes * (self.heap_per_process + self.kernel_per_process)

    @property
    def slab(self) -> int:
        """Capacity left for the slab, bytes, a multiple of the granule; 0 if there is none."""
        room = max(self.limit - self.fixed, 0)
        return room * PAGE_TABLE_SHARE // (PAGE_TABLE_SHARE + self.processes) // GRANULE * GRANULE

    @property
    def mappable(self) -> int:
        """Bytes of the slab that processes may have mapped, added up over them, where the sum of Rss counts."""
        return max(self.limit - self.base_rss - self.processes * self.heap_per_process, 0)

    def holds(self, slab: int, mapped: int) -> bool:
        """Whether there is room for a slab of that size, and for so much of it to be mapped, if that counts."""
        return self.slab >= slab and (not self.base_rss or self.mappable >= mapped)

    def smallest_limit(self, slab: int) -> int:
        """The smallest limit (whole MiB) under which a slab of that capacity fits."""
        slab = -(-slab // GRANULE) * GRANULE
        # Two roundings: of the page tables here, of the room in `slab`.
        need = self.fixed + slab + -(-slab * self.processes // PAGE_TABLE_SHARE) + self.processes
        smallest = -(-need // MIB) * MIB
        # They may have been too much by the last of it.
        return smallest - MIB if self._replace(limit=smallest - MIB).slab >= slab else smallest

    def require(self, slab: int, what: str) -> None:
        """Refuse a limit that leaves less than `slab` bytes; `what` says whose need that is.

        Raises
        ------
        LimitError
            Naming the smallest limit that works.
        """
        if self.slab < slab:
            raise LimitError(
                f"--mem-limit {size_text(self.limit)} is too small: {what} needs {size_text(slab)} beside the "
                f"{size_text(self.fixed)} that {self.processes} processes take; the smallest limit that works is "
                f"{size_text(self.smallest_limit(slab))} (fewer --workers need less)"
            )

    def lines(self) -> Iterator[tuple[str, int]]:
        """Name and bytes of each part, for ``--estimate``."""
        slab = self.slab
        yield "base", self.base
        yield "heaps", self.processes * self.heap_per_process
        yield "kernel", self.pages + self.processes * (self.kernel_per_process + slab // PAGE_TABLE_SHARE)
        yield "slab", slab
        if self.base_rss:
            yield "mapped", self.mappable


@dataclass(slots=True)
class Account:
    """Bytes under one name: now, and at most so far."""

    now: int = 0
    peak: int = 0


class Ledger:
    """Named accounts under one capacity.

    Invariants: ``total`` is the sum of the accounts, no account is negative, ``total <= capacity``, ``peak`` is the
    largest ``total`` there was.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.total = 0
        self.peak = 0
        self._accounts: dict[str, Account] = {}

    def charge(self, name: str, nbytes: int) -> None:
        """Enter `nbytes` under `name`; ValueError beyond the capacity (ask before you allocate)."""
        if nbytes < 0 or self.total + nbytes > self.capacity:
            raise ValueError(f"{name} charges {nbytes} bytes to {self.capacity - self.total} free ones")
        account = self._accounts.setdefault(name, Account())
        account.now += nbytes
        account.peak = max(account.peak, account.now)
        self.total += nbytes
        self.peak = max(self.peak, self.total)

    def refund(self, name: str, nbytes: int) -> None:
        """Take `nbytes` off `name` again; ValueError if it holds less."""
        account = self._accounts.get(name)
        if account is None or not 0 <= nbytes <= account.now:
            raise ValueError(f"{name} gives back {nbytes} bytes of {account.now if account else 0}")
        account.now -= nbytes
        self.total -= nbytes

    def account(self, name: str) -> Account:
        """An account; empty if nothing was ever entered under that name."""
        return self._accounts.get(name) or Account()

    def accounts(self) -> dict[str, Account]:
        """A copy of all accounts, largest peak first."""
        ordered = sorted(self._accounts.items(), key=lambda item: (-item[1].peak, item[0]))
        return {name: Account(account.now, account.peak) for name, account in ordered}
