"""Sees to it that a signal ends a run in time: handlers in Python run between bytecodes only, and a kernel may be long.

The first signal starts an alarm and is passed on to Python, whose handler unwinds and cleans up.  If that hasn't come to
an end when the alarm goes off, the process ends there and then: its files have no name yet, its scratch file and the
slab never have one, and its workers go with it.  What the handler in Python does is ``cli.py``'s.
"""

from libc.errno cimport errno
from libc.string cimport memset, strlen

cdef extern from "Python.h" nogil:
    int PyErr_SetInterruptEx(int number)

cdef extern from "signal.h" nogil:
    struct Action "sigaction":
        void (*sa_handler)(int) noexcept nogil
    int sigaction(int number, const Action *new, Action *old)
    const int SIGALRM

cdef extern from "sys/time.h" nogil:
    struct TimeValue "timeval":
        long tv_sec
        long tv_usec
    struct Timer "itimerval":
        TimeValue it_value
    int setitimer(int which, const Timer *new, Timer *old)
    const int ITIMER_REAL

cdef extern from "unistd.h" nogil:
    Py_ssize_t _write "write"(int fd, const void *data, size_t nbytes)
    void _exit(int code)

cdef const char *TEXT = b"> *ERROR*: stopped by a signal in the middle of a long step; nothing half-written is left\n"
cdef int exit_code
cdef long patience_us
cdef bint alarmed = False


cdef void _give_up(int number) noexcept nogil:
    _write(2, TEXT, strlen(TEXT))
    _exit(exit_code)


cdef void _set_alarm(long microseconds) noexcept nogil:
    cdef Timer timer
    memset(&timer, 0, sizeof(timer))
    timer.it_value.tv_sec = microseconds // 1000000
    timer.it_value.tv_usec = microseconds % 1000000
    setitimer(ITIMER_REAL, &timer, NULL)


cdef void _handle(int number, void (*handler)(int) noexcept nogil) noexcept nogil:
    cdef Action action
    memset(&action, 0, sizeof(action))
    action.sa_handler = handler
    sigaction(number, &action, NULL)


cdef void _pass_on(int number) noexcept nogil:
    global alarmed
    cdef int before = errno
    if not alarmed:
        alarmed = True
        _handle(SIGALRM, _give_up)
        _set_alarm(patience_us)
    PyErr_SetInterruptEx(number)
    (&errno)[0] = before


def enforce(int number, double seconds, int code):
    """Pass a signal on to its handler in Python, which must be set already, and end the process some seconds later.

    Parameters
    ----------
    number : int
    seconds : float
        How long Python may take.
    code : int
        Exit code.
    """
    global exit_code, patience_us
    exit_code, patience_us = code, <long>(1e6 * seconds)
    _handle(number, _pass_on)


def relax():
    """All is cleaned up: no alarm any more."""
    global alarmed
    _set_alarm(0)
    alarmed = False
