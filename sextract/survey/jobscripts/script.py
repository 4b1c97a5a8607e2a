"""The door of job scripts: what a script has to say, and the part that shells of all batch systems share.

A batch system is one file of this package (or an entry point) that adds a function to `JOB_SCRIPTS`: from a `Script` it makes
the text.  How many tasks, how much memory and how long is decided in ``sizing.py`` of the room.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import NamedTuple

from sextract._version import __version__
from sextract.config.machine import JOB_BYTES
from sextract.memory.budget import MIB, size_text
from sextract.registry import Registry

# A task is told so long before its time is over: it stops in two seconds, and the batch system may look once a minute.
LEAD_SECONDS = 180
# Sources, disks and machines differ: the time to ask for, in estimated ones.
SAFETY = 3
# A task that never gets an image done within its time isn't begun for ever.
MOST_STARTS = 20


class Script(NamedTuple):
    """What a job script says, whatever its language.

    Attributes
    ----------
    command : tuple of str
        Program and options, without images and parts.
    listing : str
        File of the images, in `folder`.
    folder : str
        Where the job is run: names of files are relative to it.
    images, tasks : int
        Of each, how many; a task does one part of the images.
    cpus : int
        Of a task.
    limit_bytes : int
        For all processes of a task together.
    limit_given : bool
        Whether the command says so; else a task must learn it from the job.
    seconds : int
        Time of a task.
    rss : bool
        Whether the sum of Rss keeps the limit, too.
    """

    command: tuple[str, ...]
    listing: str
    folder: str
    images: int
    tasks: int
    cpus: int
    limit_bytes: int
    limit_given: bool
    seconds: int
    rss: bool

    @property
    def memory_mib(self) -> int:
        """To ask for: the limit, and what else is in a job."""
        return -(-(self.limit_bytes + JOB_BYTES) // MIB)

    @property
    def clock(self) -> str:
        """Time of a task, HH:MM:SS."""
        minutes, seconds = divmod(self.seconds, 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"

    @property
    def name(self) -> str:
        """Of the job: the list's, without suffix."""
        return self.listing.partition(".")[0]

    def words(self, limit: bool) -> list[str]:
        """Program, list and options, with the memory limit and number of workers if the job can't tell."""
        own = ["--mem-limit", f"{self.limit_bytes // MIB}M"] if limit and not self.limit_given else []
        own += ["--workers", str(self.cpus)] if limit and "--workers" not in self.command else []
        return [*self.command, *own, f"@{self.listing}", "--resume"]

    def head(self, submit: str) -> str:
        """The first lines of comment."""
        return (
            f"# Written by sextract {__version__} for {self.images} images in {self.tasks} tasks; submit it with: {submit}\n"
            f"# The images are listed in {self.listing}, which has to stay. A script that is submitted again goes on.\n"
        )

    def sizes(self) -> str:
        """Comment on memory and time."""
        return (
            f"# Memory: {size_text(self.limit_bytes)} for all processes of a task, and a margin of {size_text(JOB_BYTES)}\n"
            "# for the shell and what else is in a job. A task runs with less, too, down to what sextract says, and slower.\n"
            f"# Time: {SAFETY} times what is estimated for the largest part. What isn't done then is done by the next start.\n"
        )


JobScript = Callable[[Script], str]

JOB_SCRIPTS: Registry[JobScript] = Registry("jobscript", "sextract.survey.jobscripts")


def supervised(command: str) -> str:
    """Lines of bash that run a command, pass signals on to it, and have its exit code in `code` and the signal in `stopped`."""
    return f"""\
run='' stopped=''
forward() {{
    stopped=$1
    [ -z "$run" ] || kill -s "$1" "$run" 2>/dev/null
}}
trap 'forward USR1' USR1
trap 'forward TERM' TERM

{command} &
run=$!
# A signal that came while there was nobody to tell.
[ -z "$stopped" ] || kill -s "$stopped" "$run" 2>/dev/null
# A trap ends a wait before the run has ended; the last one has its code.
wait "$run"
while kill -0 "$run" 2>/dev/null; do wait "$run"; done
wait "$run"
code=$?
"""


def quoted(words: list[str]) -> str:
    """Words for a shell, a few in a line."""
    lines, line = [], ""
    for word in map(shlex.quote, words):
        if line and len(line) + len(word) > 110:
            lines.append(line)
            line = "   "
        line += f" {word}" if line else word
    return " \\\n".join([*lines, line])
