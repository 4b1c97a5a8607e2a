"""Every exception of sextract, which situation raises which, and the exit code each one ends a run with.

    SextractError                 1   anything that goes wrong in a way we foresaw
    ├── ConfigError               2   a keyword, a parameter or an option is unknown, missing or contradictory
    ├── InputError                3   an image (or kernel, weight, header) can't be read or is not what it claims
    ├── OutputError               4   a file can't be written: folder missing, full, not writable
    ├── LimitError                5   the memory limit can't hold the work; names the smallest that can
    ├── WorkerError               1   a worker process failed in a way that retrying doesn't mend
    └── Interrupted              75   stopped by a signal; the run can be repeated

A failed measurement is no exception: it is NaN and a flag.  Messages say what, where, and which option to change.
All of them survive pickling, because they cross processes.
"""

from __future__ import annotations

import errno


class SextractError(Exception):
    """Base of all foreseen errors."""

    exit_code = 1


class ConfigError(SextractError):
    """Usage or configuration: unknown keyword, bad value, unknown column."""

    exit_code = 2


class InputError(SextractError):
    """An input file is missing, is not FITS, is truncated, or holds no image."""

    exit_code = 3


class OutputError(SextractError):
    """An output can't be written."""

    exit_code = 4


class LimitError(SextractError):
    """The memory limit is too small; the message names the smallest that works."""

    exit_code = 5


class WorkerError(SextractError):
    """A worker failed again and again."""


class Interrupted(SextractError):
    """A signal stopped the run."""

    exit_code = 75


def out_of_memory(exc: BaseException | None) -> bool:
    """Whether an exception, or one that it followed, says that the machine gave no more memory.

    An allocation, or a library that can't be mapped; and what extension modules make of either, which is no exception at all.
    """
    if exc is None:
        return False
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno == errno.ENOMEM):
        return True
    if isinstance(exc, SystemError) and "without" in str(exc):
        return True
    words = ("cannot allocate memory", "failed to map segment", "cannot map", "out of memory")
    if isinstance(exc, ImportError) and any(word in str(exc).lower() for word in words):
        return True
    return out_of_memory(exc.__context__)
