"""Looks at resident memory, many times a second, without the interpreter: /proc/PID/statm of some processes and a file's blocks.

It keeps nothing and decides nothing; that is ``gauge.py``.  A look takes the kernel a microsecond a process.
"""

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport _SC_PAGESIZE, sysconf

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *buffer, size_t nbytes, long long offset)

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        int64_t st_blocks
    int fstat(int fd, stat_t *found)

cdef extern from "<time.h>" nogil:
    int clock_nanosleep(int clock, int flags, const timespec *until, timespec *left)
    const int TIMER_ABSTIME

# A line of seven numbers.
cdef enum:
    LINE = 160


cdef void look(const int *statm, Py_ssize_t n, int blocks, int64_t page, int64_t *out) noexcept nogil:
    # Bytes of the file, then of each process: anonymous, all resident; zeros for what is gone.
    cdef char line[LINE]
    cdef char *p
    cdef stat_t found
    cdef int64_t number[3]
    cdef Py_ssize_t i
    cdef ssize_t got
    cdef int k
    out[0] = found.st_blocks * 512 if blocks >= 0 and fstat(blocks, &found) == 0 else 0
    for i in range(n):
        got = pread(statm[i], line, LINE - 1, 0) if statm[i] >= 0 else 0
        line[max(got, 0)] = 0
        p = line
        # All pages, resident ones, and of these the ones that a file or shared memory is behind.
        for k in range(3):
            number[k] = 0
            while c"0" <= p[0] <= c"9":
                number[k] = 10 * number[k] + p[0] - c"0"
                p += 1
            if p[0] == c" ":
                p += 1
        out[1 + 2 * i] = (number[1] - number[2]) * page
        out[2 + 2 * i] = number[1] * page


def watch(
    const int[::1] statm, int blocks, double[::1] at, int64_t[:, ::1] out, double every, const unsigned char[::1] over
):
    """Fill the rows of `out` with looks, one every so many seconds; the first at once.

    Parameters
    ----------
    statm : int32 array (n,)
        Open /proc/PID/statm; -1 for none.
    blocks : int
        Descriptor of a file, or -1.
    at : float64 array (rows,)
        Gets the time of each look, as ``time.monotonic`` tells it.
    out : int64 array (rows, 1 + 2 n)
        Gets bytes: what the file takes, then anonymous and all resident pages of each process.
    every : float
        Seconds.
    over : uint8 array (1,)
        Not 0: stop, at the next look.

    Returns
    -------
    int
        Rows filled.
    """
    cdef int64_t page = sysconf(_SC_PAGESIZE)
    cdef Py_ssize_t k, n = statm.shape[0], done = 0
    cdef timespec now, due
    cdef int64_t step = <int64_t>(every * 1e9), since
    with nogil:
        clock_gettime(CLOCK_MONOTONIC, &now)
        due = now
        for k in range(out.shape[0]):
            if k:
                # What was slept through is not made up for.
                since = (now.tv_sec - due.tv_sec) * 1000000000 + now.tv_nsec - due.tv_nsec
                due.tv_nsec += step if since < step else since
                due.tv_sec += due.tv_nsec // 1000000000
                due.tv_nsec %= 1000000000
                clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL)
                if over[0]:
                    break
                clock_gettime(CLOCK_MONOTONIC, &now)
            at[k] = now.tv_sec + 1e-9 * now.tv_nsec
            look(&statm[0] if n else NULL, n, blocks, page, &out[k, 0])
            done += 1
    return done
