"""Prepares a process for a run: one thread per process, a heap that gives memory back, no huge pages.

``prepare`` must run before numpy is imported anywhere in the process, since the BLAS starts its threads then; the
command line does so first.  A program that calls ``extract()`` has its own environment; for it only ``tune_heap`` is
used, in the forked workers.  This module imports nothing that imports numpy.

Whichever allocator a process was started with is told the same: glibc's, or jemalloc, tcmalloc, mimalloc where they are
preloaded.  What they offer for that is looked for by name in the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# From malloc.h and prctl.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_PR_SET_PDEATHSIG, _PR_SET_THP_DISABLE = 1, 41
# MALLCTL_ARENAS_ALL of jemalloc.h.
_JEMALLOC_ALL = 4096

_libc: Any = ctypes.CDLL(None, use_errno=True)


def prepare() -> None:
    """Set up this process, and by inheritance all it forks, for a run."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"
    # Otherwise NumPy asks for huge pages for arrays above 4 MiB, and never takes it back.
    os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"
    open_standard_streams()
    tune_heap()
    disable_huge_pages()


def open_standard_streams() -> None:
    """Point closed standard descriptors at /dev/null, or the next socket would be taken for stderr."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free descriptor is the one that is missing.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(fd, True)


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


def disable_huge_pages() -> bool:
    """No transparent huge pages: they round a small heap up to 2 MiB pieces."""
    return _prctl(_PR_SET_THP_DISABLE, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which forked it, ends; leave at once if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _prctl(option: int, value: int) -> bool:
    prctl = getattr(_libc, "prctl", None)
    return prctl is not None and prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0
