"""Has the heap of a process give back what is freed, whichever allocator it was started with.

Nothing large comes from malloc (``slab.py`` has that), so what is left is many small blocks, and an allocator's habit to keep
what was freed for later.  glibc's, jemalloc, tcmalloc and mimalloc are told not to, by functions that are looked for by name
in the process.  This module imports nothing that imports numpy.
"""

from __future__ import annotations

import ctypes
from typing import Any

from sextract.memory.codepages import drop_code_pages

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
# MALLCTL_ARENAS_ALL of jemalloc.h.
_JEMALLOC_ALL = 4096
# Of mimalloc.h: mi_option_decommit_delay, later mi_option_purge_delay; mi_option_segment_decommit_delay, up to version 2.0.
_MI_DELAY, _MI_SEGMENT_DELAY, _MI_SEGMENTS_UP_TO = 15, 23, 209

_libc: Any = ctypes.CDLL(None)


def tune_heap() -> None:
    """Make the allocator return what is freed, soon."""
    if mallopt := _function("mallopt"):
        # One arena, blocks from 64 KiB on by mmap.
        values = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: 64 << 10, _M_TRIM_THRESHOLD: 128 << 10, _M_TOP_PAD: 64 << 10}
        for name, value in values.items():
            mallopt(name, value)
    if _function("mallctl"):
        # What is freed is kept for ten seconds otherwise.
        arenas = ["arenas", *(f"arena.{k}" for k in range(_jemalloc_arenas()))]
        for arena in arenas:
            for pages in ("dirty", "muzzy"):
                _jemalloc_set(f"{arena}.{pages}_decay_ms", 0)
    if set_property := _function("MallocExtension_SetNumericProperty"):
        set_property(b"tcmalloc.aggressive_memory_decommit", ctypes.c_size_t(1))
        # The smallest that it takes.
        set_property(b"tcmalloc.max_total_thread_cache_bytes", ctypes.c_size_t(512 << 10))
    if set_option := _function("mi_option_set"):
        set_option(_MI_DELAY, ctypes.c_long(0))
        if _libc.mi_version() <= _MI_SEGMENTS_UP_TO:
            set_option(_MI_SEGMENT_DELAY, ctypes.c_long(0))


def trim_heap() -> None:
    """Return the free pages inside the heap to the kernel."""
    if malloc_trim := _function("malloc_trim"):
        malloc_trim(ctypes.c_size_t(0))
    if mallctl := _function("mallctl"):
        mallctl(b"arena.%d.purge" % _JEMALLOC_ALL, None, None, None, ctypes.c_size_t(0))
    if release := _function("MallocExtension_ReleaseFreeMemory"):
        release()
    if collect := _function("mi_collect"):
        collect(ctypes.c_bool(True))


def give_back() -> None:
    """Return all that can be done without: free pages of the heap, pages of code that isn't being run."""
    trim_heap()
    drop_code_pages()


def _function(name: str) -> Any:
    """A function of this process by its name; None if there is none."""
    return getattr(_libc, name, None)


def _jemalloc_arenas() -> int:
    """How many arenas jemalloc may have."""
    count, size = ctypes.c_uint(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_uint))
    _libc.mallctl(b"arenas.narenas", ctypes.byref(count), ctypes.byref(size), None, ctypes.c_size_t(0))
    return count.value


def _jemalloc_set(name: str, value: int) -> None:
    """Set a value of type ssize_t; an arena that isn't in use has none."""
    number = ctypes.c_ssize_t(value)
    _libc.mallctl(name.encode(), None, None, ctypes.byref(number), ctypes.c_size_t(ctypes.sizeof(number)))
