"""The file behind an output until it is whole: without a name where the file system can, else under one of its own.

A file without a name (O_TMPFILE) is gone when the last process that has it open is, so a run killed by SIGKILL leaves
nothing.  Elsewhere (NFS, FUSE) it has a hidden name in the folder of its destination and is locked as long as its run
lives; the next run that writes to the same destination removes what is no longer locked.  What is written into it, and
when it is moved in place, is ``output.py``'s.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal

# Long names must not grow beyond what a file system takes.
_STEM = 50
_MODE = 0o666
# Names are numbered; more than so many at a time are hardly ever left.
_SWEPT = 8


def create(target: str) -> tuple[int, str]:
    """Descriptor of an empty file in the folder of `target`, and its name; the name is empty if it has none.

    Raises
    ------
    OSError
        The folder is missing or can't be written to.
    """
    sweep(target)
    fd = _nameless(target)
    return (fd, "") if fd >= 0 else _named(target)


def publish(fd: int, name: str, target: str) -> None:
    """Give a file the name `target`, in place of what has it now; all or nothing.

    Raises
    ------
    OSError
        `target` is as it was.
    """
    if not name:
        try:
            link(fd, target)
            return
        except FileExistsError:
            # Only a rename replaces; SIGKILL between the two leaves a name that the next run sweeps away.
            name = _free_name(fd, target)
    try:
        os.replace(name, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def sweep(target: str) -> None:
    """Remove what killed runs have left for this destination: names that no living process has locked.

    The folder isn't listed: it may hold the catalogues of a whole survey.
    """
    for attempt in range(_SWEPT):
        # Files of others stay.
        with contextlib.suppress(OSError):
            _remove_unlocked(_part_name(target, attempt))


def _remove_unlocked(path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # An error if it is locked, or if this file system has no locks: then nobody can tell.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(fd)


def _nameless(target: str) -> int:
    """A file without a name that can be given one at the end; -1 where that can't be had."""
    folder = os.path.dirname(target)
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    try:
        trial = os.open(folder, flags, _MODE)
        # A signal that ends the run must not come while it has a name.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            # Hours from now it would be too late to find out that this is forbidden here.
            name = _free_name(trial, target)
            # Whoever sweeps for a destination of a like name may have been quicker.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        finally:
            os.close(trial)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        fd = os.open(folder, flags, _MODE)
    except OSError:
        return -1
    # So that the name it has for a moment in `publish` isn't swept away.
    lock(fd)
    return fd


def reopen(name: str) -> int:
    """Descriptor of a file that another process has kept.

    Raises
    ------
    OSError
        It is gone.
    """
    fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    return fd


def lock(fd: int) -> None:
    """Have `sweep` leave a file alone for as long as anybody has it open, where there are locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _named(target: str) -> tuple[int, str]:
    """A file with a name that says whose it is, locked where there are locks."""
    for attempt in range(1000):
        name = _part_name(target, attempt)
        try:
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        except FileExistsError:
            continue
        lock(fd)
        # Another run may have swept it away before it was locked.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(name), os.fstat(fd)):
                return fd, name
        os.close(fd)
    raise FileExistsError(errno.EEXIST, "too many temporary files", target)


def _free_name(fd: int, target: str) -> str:
    """Link a nameless file to a temporary name; the name."""
    for attempt in range(1000):
        name = _part_name(target, attempt)
        try:
            link(fd, name)
            return name
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, "too many temporary files", target)


def _part_name(target: str, attempt: int) -> str:
    folder, stem = os.path.split(target)
    return os.path.join(folder, f".{stem[:_STEM]}.{attempt}.part")


def link(fd: int, name: str) -> None:
    """Give an open file a name."""
    # Links of /proc are followed only by linkat, which Python calls when a folder's descriptor is given; with absolute
    # names it has no meaning.
    os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)
