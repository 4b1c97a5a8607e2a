"""A process that does the images of a survey for a worker of an engine (``execution/host.py``), one after the other.

What it gets, what it gives back and when it ends is here; what is done with an image is ``job.py``'s.
"""

from __future__ import annotations

import pickle
import select
import signal
import socket
from dataclasses import replace
from typing import BinaryIO

from sextract.errors import LimitError
from sextract.execution.host import Order
from sextract.memory.budget import size_text
from sextract.pipeline import Kept
from sextract.survey.job import Job, Outcome, run_image

# Without work for so long it leaves, in case nobody is left to dismiss it.
IDLE_SECONDS = 60.0
# From this attempt on the image is done by a process beside this one, which may crash with the source that crashes it.
APART = 3


def serve(fd: int) -> None:
    """Do the work that comes through a socket until its other end is closed."""
    # Those that a terminal or a batch system sends to all processes are for whoever drives the survey.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    used, kept = False, None
    with socket.socket(fileno=fd) as sock, sock.makefile("rb") as orders:
        while order := _next(sock, orders):
            job = _within(pickle.loads(order.payload), order.share_bytes)
            # The first run has measured what this process takes; many have but one.
            if used and kept is None:
                kept = Kept(order.share_bytes, job.settings.resources.scratch_dir, hosted=False)
            outcome = do(job, order, kept)
            # What it did before may have left something on its heap (astropy, say) that is in the way now.
            again = used and outcome.exit_code == LimitError.exit_code
            sock.sendall(pickle.dumps(b"" if again else pickle.dumps(outcome)))
            used = True


def _within(job: Job, share_bytes: int) -> Job:
    """A job within its share of a worker's memory."""
    resources = replace(job.settings.resources, mem_limit_bytes=share_bytes)
    if job.attempt >= APART:
        resources = replace(resources, workers=max(resources.workers, 1))
    return job._replace(settings=replace(job.settings, resources=resources))


def do(job: Job, order: Order, kept: Kept | None) -> Outcome:
    """Do an image, and say what its share lacks if that is too small."""
    outcome = run_image(job, kept=kept)
    if outcome.exit_code == LimitError.exit_code:
        taken = f"; the engine's own process takes {size_text(order.host_bytes)} of what --mem-limit leaves each worker"
        outcome = outcome._replace(error=outcome.error + taken)
    return outcome


def _next(sock: socket.socket, orders: BinaryIO) -> Order | None:
    """The next order; None if there are no more."""
    if not select.select([sock], [], [], IDLE_SECONDS)[0]:
        # What comes later is refused, so that it can be given to another process; what came just now is done.
        sock.shutdown(socket.SHUT_RD)
    try:
        return Order(*pickle.load(orders))
    except (EOFError, OSError, pickle.UnpicklingError):
        return None
