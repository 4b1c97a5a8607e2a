"""The slab: one anonymous block of shared memory that holds every buffer that grows with pixels or sources.

A memfd, mapped once before the workers are forked, so that a ``BlockRef`` (offset, length) means the same bytes in
every process.  Only the process that made the slab allocates and frees; the others make views of blocks they are lent.
No lock is shared, nothing has a name, nothing is left behind after ``kill -9``.

It keeps no tiles (``tiles.py``), writes nothing to disk (``spill.py``) and doesn't decide its own size (``budget.py``).

What may lie on a disk if there is no room has a range of offsets behind the slab's (``overflow.py``).

Pages are reserved when they are first handed out (a sparse file is a SIGBUS in waiting), after a look at the headroom
of the memory cgroup (beyond it comes SIGKILL, no error), and recycled from then on; only ``shrink`` gives them back.

Set SEXTRACT_DEBUG_POISON=1 to fill blocks with 0xFF (NaN as a float) when they are handed out and when they come back.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sextract.errors import LimitError
from sextract.memory.anonymous import anonymous_file
from sextract.memory.budget import GRANULE, Ledger, size_text
from sextract.memory.headroom import headroom
from sextract.memory.overflow import open_overflow, overflow_bytes
from sextract.records import BlockRef

# A cache line, and the widest vector register.
_ALIGN = 64
_PAGE = 4096
# From here on a block starts on a page: reads go straight into it, and tiles don't share pages with their neighbours.
_LARGE = 64 * 1024
# A signal restarts a fallocate from its beginning; pieces keep that cheap.
_RESERVE_STEP = 16 << 20
# Left alone under a cgroup's ceiling, for what the kernel charges meanwhile.
_HEADROOM_SLACK = 1 << 20
# Growth that may pass between two looks at the headroom, at most.
_HEADROOM_STALE = 32 << 20
_POISON = 0xFF



class SlabFull(LimitError):
    """No free piece is large enough: whoever allocates makes room or waits; to a user, the limit is too small."""

    def __init__(self, nbytes: int, free: int, largest: int) -> None:
        super().__init__(nbytes, free, largest)
        self.nbytes = nbytes
        self.free = free
        self.largest = largest

    def __str__(self) -> str:
        return (
            f"a buffer of {self.nbytes} bytes doesn't fit in the memory limit: {self.free} bytes are free, "
            f"{self.largest} in one piece; raise --mem-limit"
        )


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _footprint(nbytes: int) -> int:
    """Bytes a block of that length takes."""
    return _round_up(max(nbytes, 1), _PAGE if nbytes >= _LARGE else _ALIGN)


class Slab:
    """Allocator of blocks in one shared mapping.

    Parameters
    ----------
    capacity_bytes : int
        Size of the mapping, rounded down to whole granules (64 KiB).  Address space, not memory.
    headroom : callable, optional
        ``() -> (bytes, what)``: how much more the machine would let us hold.
    scratch_dir : str or None
        Folder of what outgrows the slab (``""``: found by itself); None for a slab without.

    Attributes
    ----------
    extent : int
        Length of the range of offsets, overflow included.
    low : int
        Offsets below it are for blocks that may lie there (``alloc(..., low=True)``): tiles, which can be given up, and the
        one large block that needs them to be.
    capacity, ceiling : int
        Bytes that may be lent at all, and for now.
    scattered : int
        Largest request refused so far for which enough bytes were free where it may lie, but not in one piece.

    Raises
    ------
    LimitError
        If the machine refuses the mapping.

    Notes
    -----
    Invariants: blocks in use and free extents tile ``[0, capacity)`` without overlap; no two free extents touch; each
    page of a block in use is reserved; ``used`` is the sum of the blocks.  Tiles take the smallest extent that fits, from its
    start; others the highest, from its end, so that they don't cut the gaps that tiles leave.
    """

    def __init__(
        self,
        capacity_bytes: int,
        *,
        headroom: Callable[[], tuple[int, str]] = headroom,
        scratch_dir: str | None = None,
    ) -> None:
        self.capacity = capacity_bytes // GRANULE * GRANULE
        if self.capacity <= 0:
            raise LimitError(f"no memory is left for buffers ({capacity_bytes} bytes): raise --mem-limit")
        self._owner_pid = os.getpid()
        self._headroom = headroom
        self._unchecked = 0
        self._poison = os.environ.get("SEXTRACT_DEBUG_POISON", "") == "1"
        self.overflow = None if scratch_dir is None else open_overflow(scratch_dir, self.capacity)
        behind = overflow_bytes(self.capacity) if self.overflow is not None else 0
        self.extent = self.capacity + behind
        self._fd = anonymous_file(self.capacity)
        try:
            # As long as the mapping, though nothing of it is ever used behind the capacity.
            os.ftruncate(self._fd, self.extent)
            self._map = mmap.mmap(self._fd, self.extent)
            if self.overflow is not None:
                start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
                self.overflow.attach(start + self.capacity, behind)
        except OSError as exc:
            os.close(self._fd)
            # The largest file allowed holds for nameless ones in memory, too.
            why = f"{exc.strerror}; ulimit -f" if exc.errno == errno.EFBIG else f"{exc.strerror}; ulimit -v"
            raise LimitError(f"can't map {size_text(self.capacity)} of buffers ({why}): lower --mem-limit") from exc
        # A crashed worker's core holds its own state, not the image.
        self._map.madvise(mmap.MADV_DONTDUMP)
        self._backed = bytearray(self.capacity // GRANULE)
        self.renew()

    def renew(self) -> None:
        """Take everything back, as if nothing had been lent or restricted, but keep the pages: for a run after another."""
        self._check_owner()
        self.capacity = self.most
        self.ledger = Ledger(self.capacity)
        self.ceiling = self.capacity
        self.low = 0
        self.scattered = 0
        self._blocks: dict[int, tuple[int, int, str]] = {}  # offset → bytes asked for, bytes taken, owner
        self._sizes: dict[int, int] = {0: self.capacity}  # free extents: offset → bytes
        self._ends: dict[int, int] = {self.capacity: 0}  # the same: end → offset
        self._by_offset: list[int] = [0]
        self._by_size: list[tuple[int, int]] = [(self.capacity, 0)]
        if self.overflow is not None:
            self.overflow.renew()

    # What there is

    @property
    def most(self) -> int:
        """Bytes that it could hold, were it not restricted."""
        return len(self._backed) * GRANULE

    @property
    def fd(self) -> int:
        """Descriptor of its file; -1 once it is closed."""
        return self._fd

    @property
    def used(self) -> int:
        """Bytes lent out, rounding included."""
        return self.ledger.total

    @property
    def free_bytes(self) -> int:
        """Bytes not lent out, below the ceiling, in however many pieces."""
        return max(self.ceiling - self.ledger.total, 0)

    @property
    def allocated(self) -> int:
        """Bytes of memory that the kernel really holds for the slab."""
        return os.fstat(self._fd).st_blocks * 512

    def largest_free(self) -> int:
        """Length of the largest free extent, bytes."""
        return self._by_size[-1][0] if self._by_size else 0

    def fits(self, nbytes: int, low: bool = False) -> bool:
        """Whether ``alloc(nbytes)`` would find a place."""
        return self._find(nbytes, low) is not None

    def could_replace(self, ref: BlockRef, nbytes: int) -> bool:
        """Whether a block with pages of its own could lie where a lent one does, wherever that is."""
        taken, size = self._entry(ref)[0], _footprint(nbytes)
        return size <= taken and ref.offset % _PAGE == 0 and self.used - taken + size <= self.ceiling

    def would_fit(self, nbytes: int, without: Iterable[BlockRef], low: bool = False) -> bool:
        """Whether ``alloc(nbytes)`` would find a place if those blocks were free."""
        if self.fits(nbytes, low):
            return True
        taken, step = _footprint(nbytes), _PAGE if low or nbytes >= _LARGE else _ALIGN
        blocks = sorted((ref.offset, self._entry(ref)[0]) for ref in without)
        if self.used - sum(size for _, size in blocks) + taken > self.ceiling:
            return False
        floor = 0 if low else self.low
        # Under a lowered ceiling a piece may be there that only lacks the right to be lent.
        joined = self._joined(blocks)
        return bool(self._place(nbytes, low)) or any(_round_up(max(start, floor), step) + taken <= end for start, end in joined)

    def note_refusal(self, nbytes: int, without: Iterable[BlockRef], low: bool = False) -> None:
        """A block was refused, though those others could go; see ``scattered``."""
        taken, blocks = _footprint(nbytes), sorted((ref.offset, self._entry(ref)[0]) for ref in without)
        lent, floor = self.used - sum(size for _, size in blocks), 0 if low else self.low
        free = sum(max(end - max(start, floor), 0) for start, end in self._pieces(blocks))
        if free >= taken and lent + taken <= self.ceiling:
            self.scattered = max(self.scattered, nbytes)

    def fragmentation(self, nbytes: int, without: Iterable[BlockRef] = ()) -> float:
        """Fraction of the free bytes that blocks of one size can't use.

        Parameters
        ----------
        nbytes : int
            Size of the blocks, at least 64 KiB.
        without : iterable of BlockRef
            Blocks that count as free: tiles that could be evicted.

        Returns
        -------
        float
            0 if all free bytes could be lent in such blocks, but for less than one block; 1 if none could.
        """
        taken = _footprint(nbytes)
        blocks = sorted((ref.offset, self._entry(ref)[0]) for ref in without)
        free = self.capacity - self.used + sum(size for _, size in blocks)
        places = sum(max(end - _round_up(start, _PAGE), 0) // taken for start, end in self._pieces(blocks))
        return 1 - places / (free // taken) if free >= taken else 0.0

    def free_extents(self) -> list[BlockRef]:
        """All free extents, by offset."""
        return [BlockRef(offset, self._sizes[offset]) for offset in self._by_offset]

    # Lending

    def alloc(self, nbytes: int, owner: str, low: bool = False) -> BlockRef:
        """Lend a block; its content is undefined.

        Parameters
        ----------
        nbytes : int
        owner : str
            Account of the ledger it is entered under.
        low : bool
            It may lie below ``low``.

        Returns
        -------
        BlockRef
            Aligned to 64 bytes, to 4096 from 64 KiB on.

        Raises
        ------
        SlabFull
            If no free extent is large enough.
        LimitError
            If the machine has less memory left than the limit promised.
        """
        self._check_owner()
        place = self._find(nbytes, low)
        if place is None:
            raise SlabFull(nbytes, self.free_bytes, self.largest_free())
        extent, start = place
        taken = _footprint(nbytes)
        self._back(start, taken)
        size = self._remove_extent(extent)
        self._insert_extent(extent, start - extent)
        self._insert_extent(start + taken, extent + size - start - taken)
        self._blocks[start] = (nbytes, taken, owner)
        self.ledger.charge(owner, taken)
        self._mark(start, taken)
        return BlockRef(start, nbytes)

    def alloc_behind(self, nbytes: int) -> BlockRef | None:
        """A block that may lie on a disk; None if there is no such place."""
        self._check_owner()
        return None if self.overflow is None else self.overflow.alloc(nbytes)

    def free(self, ref: BlockRef) -> None:
        """Take a block back; ValueError if it isn't lent out (any more)."""
        self._check_owner()
        if self.overflow is not None and ref in self.overflow:
            self.overflow.free(ref)
            return
        taken, owner = self._entry(ref)
        del self._blocks[ref.offset]
        self.ledger.refund(owner, taken)
        self._mark(ref.offset, taken)
        self._release(ref.offset, taken)

    def resize_down(self, ref: BlockRef, nbytes: int) -> BlockRef:
        """Keep the first `nbytes` of a block and take the rest back; the old reference is void.

        What lies behind the slab keeps its room.
        """
        self._check_owner()
        if self.overflow is not None and ref in self.overflow:
            return BlockRef(ref.offset, nbytes)
        taken, owner = self._entry(ref)
        if not 0 <= nbytes <= ref.nbytes:
            raise ValueError(f"a block of {ref.nbytes} bytes can't shrink to {nbytes}")
        kept = min(_footprint(nbytes), taken)
        self._blocks[ref.offset] = (nbytes, kept, owner)
        if kept < taken:
            self.ledger.refund(owner, taken - kept)
            self._mark(ref.offset + kept, taken - kept)
            self._release(ref.offset + kept, taken - kept)
        return BlockRef(ref.offset, nbytes)

    def restrict(self, capacity_bytes: int) -> None:
        """Lower the capacity, once the base is measured; nothing may be lent out yet above it."""
        self._check_owner()
        capacity = capacity_bytes // GRANULE * GRANULE
        if capacity > self.capacity or capacity <= 0:
            raise ValueError(f"the slab can't go from {self.capacity} to {capacity} bytes")
        if capacity == self.capacity:
            return
        last = self._by_offset[-1] if self._by_offset else self.capacity
        if last > capacity or last + self._sizes.get(last, 0) != self.capacity:
            raise ValueError(f"blocks are lent out above {capacity} bytes")
        self._remove_extent(last)
        self._insert_extent(last, capacity - last)
        self._punch(capacity // GRANULE, len(self._backed))
        self.capacity = self.ledger.capacity = self.ceiling = capacity

    def lower_ceiling(self, nbytes: int, floor: int = 0) -> int:
        """Lend `nbytes` less from now on, because something else holds them, and give back what is free.

        Parameters
        ----------
        nbytes : int
        floor : int
            The ceiling doesn't go below that.

        Returns
        -------
        int
            By how much the ceiling was lowered.
        """
        lowered = max(min(nbytes, self.ceiling - floor), 0)
        self.ceiling -= lowered
        self.shrink()
        return lowered

    def raise_ceiling(self, nbytes: int) -> None:
        """Lend `nbytes` more again."""
        self.ceiling = min(self.ceiling + nbytes, self.capacity)

    def shrink(self) -> int:
        """Give the memory of free extents back to the kernel; the number of bytes given."""
        self._check_owner()
        return sum(
            self._punch(-(-offset // GRANULE), (offset + self._sizes[offset]) // GRANULE) for offset in self._by_offset
        )

    # Looking

    def view(self, ref: BlockRef, dtype: DTypeLike, shape: int | tuple[int, ...] | None = None) -> NDArray[Any]:
        """An array over a block, in any process.

        Parameters
        ----------
        ref : BlockRef
        dtype : dtype
        shape : int or tuple of int, optional
            By default one-dimensional, as many items as fit.  ValueError if it doesn't fit.
        """
        item = np.dtype(dtype)
        if shape is None:
            shape = (ref.nbytes // item.itemsize,)
        elif isinstance(shape, int):
            shape = (shape,)
        count = math.prod(shape)
        if count * item.itemsize > ref.nbytes:
            raise ValueError(f"{shape} of {item} is more than the {ref.nbytes} bytes of the block")
        # A frombuffer array holds the mapping: it can't be unmapped under a view.
        return np.frombuffer(self._map, item, count, ref.offset).reshape(shape)

    def bytes_view(self, offset: int, nbytes: int) -> memoryview:
        """Writable bytes of the slab."""
        return memoryview(self._map)[offset : offset + nbytes]

    def unmap(self, *kept: BlockRef) -> None:
        """Take the pages out of this process's map, but those of blocks that begin on a page; they keep what is in them.

        A page comes back when it is touched, so this may be done at any time, in any process; it counts in no Rss until then.
        """
        start = 0
        for ref in sorted(kept):
            if ref.offset > start:
                self._map.madvise(mmap.MADV_DONTNEED, start, ref.offset - start)
            start = ref.offset + _round_up(ref.nbytes, _PAGE)
        if start < self.capacity:
            self._map.madvise(mmap.MADV_DONTNEED, start, self.capacity - start)

    def close(self) -> None:
        """Drop the mapping and its memory; views that live keep both until they go."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if self.overflow is not None:
            self.overflow.close()
        try:
            self._map.close()
        except BufferError:
            # Views are left; the mapping goes with the last of them, or with the process.
            return

    def empty(self) -> None:
        """Give all memory back, whatever is lent out, closed or not; who still has a view may not look at it any more."""
        self._check_owner()
        if not self._map.closed:
            self._punch(0, len(self._backed))

    # Inside

    def _check_owner(self) -> None:
        if os.getpid() != self._owner_pid:
            raise RuntimeError("only the process that made the slab allocates and frees")

    def _entry(self, ref: BlockRef) -> tuple[int, str]:
        """Bytes taken and owner of a block that is lent out."""
        nbytes, taken, owner = self._blocks.get(ref.offset, (-1, 0, ""))
        if nbytes != ref.nbytes:
            raise ValueError(f"{ref} isn't lent out")
        return taken, owner

    def _joined(self, blocks: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Start and end of what would be free if blocks, sorted pairs of offset and length, were, with what is beside them."""
        start = end = -1
        for offset, size in blocks:
            before = self._ends.get(offset, offset)
            if before > end or end < 0:
                if end >= 0:
                    yield start, end
                start = before
            end = offset + size
            end += self._sizes.get(end, 0)
        if end >= 0:
            yield start, end

    def _pieces(self, blocks: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Start and end of all that would be free if blocks, sorted pairs of offset and length, were."""
        beside = {start + size for start, size in blocks} | {start for start, _ in blocks}
        for offset, size in self._sizes.items():
            if offset not in beside and offset + size not in beside:
                yield offset, offset + size
        yield from self._joined(blocks)

    def _find(self, nbytes: int, low: bool) -> tuple[int, int] | None:
        """Extent and start of the place for a block, if it may be lent."""
        if nbytes < 0:
            raise ValueError(f"a block of {nbytes} bytes")
        return self._place(nbytes, low) if self.used + _footprint(nbytes) <= self.ceiling else None

    def _place(self, nbytes: int, low: bool) -> tuple[int, int] | None:
        """Extent and start of the place for a block."""
        taken = _footprint(nbytes)
        if low:
            for size, extent in self._by_size[bisect_left(self._by_size, (taken, 0)) :]:
                start = _round_up(extent, _PAGE)
                if start + taken <= extent + size:
                    return extent, start
            return None
        step = _PAGE if nbytes >= _LARGE else _ALIGN
        for extent in reversed(self._by_offset):
            start = (extent + self._sizes[extent] - taken) // step * step
            if start < self.low:
                return None
            if start >= extent:
                return extent, start
        return None

    def _insert_extent(self, offset: int, size: int) -> None:
        if size > 0:
            self._sizes[offset] = size
            self._ends[offset + size] = offset
            insort(self._by_offset, offset)
            insort(self._by_size, (size, offset))

    def _remove_extent(self, offset: int) -> int:
        size = self._sizes.pop(offset)
        del self._ends[offset + size]
        del self._by_offset[bisect_left(self._by_offset, offset)]
        del self._by_size[bisect_left(self._by_size, (size, offset))]
        return size

    def _release(self, offset: int, size: int) -> None:
        """Make an extent free, joined with the free ones beside it."""
        after = offset + size
        if after in self._sizes:
            size += self._remove_extent(after)
        if offset in self._ends:
            offset = self._ends[offset]
            size += self._remove_extent(offset)
        self._insert_extent(offset, size)
        self._trim()

    def _trim(self, coming: int = 0) -> None:
        """Under a lowered ceiling free extents don't keep pages beyond it, with as many granules as are coming."""
        if self.ceiling < self.capacity and (self._backed.count(1) + coming) * GRANULE > self.ceiling:
            self.shrink()

    def _mark(self, offset: int, size: int) -> None:
        if self._poison:
            np.frombuffer(self._map, np.uint8, size, offset)[:] = _POISON

    def _back(self, offset: int, size: int) -> None:
        """Reserve the granules of an extent that aren't."""
        end = -(-(offset + size) // GRANULE)
        self._trim(self._backed.count(0, offset // GRANULE, end))
        first = self._backed.find(0, offset // GRANULE, end)
        while first >= 0:
            last = self._backed.find(1, first, end)
            last = min(last if last >= 0 else end, first + _RESERVE_STEP // GRANULE)
            self._reserve(first, last)
            first = self._backed.find(0, last, end)

    def _reserve(self, first: int, last: int) -> None:
        """Reserve granules first..last; LimitError where the kernel would kill or refuse."""
        nbytes = (last - first) * GRANULE
        if nbytes > self._unchecked:
            room, what = self._headroom()
            if nbytes + _HEADROOM_SLACK > room:
                raise LimitError(
                    f"only {max(room, 0) >> 20} MiB are left in the {what}, {size_text(nbytes)} more were to be used: "
                    f"the limit promised more than there is; lower --mem-limit or run with more memory"
                )
            self._unchecked = min(room // 4, _HEADROOM_STALE) + nbytes
        try:
            os.posix_fallocate(self._fd, first * GRANULE, nbytes)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
                raise
            raise LimitError(f"the kernel has no {size_text(nbytes)} more ({exc.strerror}): lower --mem-limit") from exc
        self._unchecked -= nbytes
        self._backed[first:last] = b"\1" * (last - first)

    def _punch(self, first: int, last: int) -> int:
        """Give reserved granules of first..last back; their bytes."""
        given = 0
        start = self._backed.find(1, first, last) if first < last else -1
        while start >= 0:
            stop = self._backed.find(0, start, last)
            stop = stop if stop >= 0 else last
            self._map.madvise(mmap.MADV_REMOVE, start * GRANULE, (stop - start) * GRANULE)
            self._backed[start:stop] = bytes(stop - start)
            given += (stop - start) * GRANULE
            start = self._backed.find(1, stop, last)
        return given
