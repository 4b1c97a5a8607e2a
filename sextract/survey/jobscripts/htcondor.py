"""HTCondor: a submit description for ``condor_submit``.

HTCondor has no time limit of its own: what is evicted gets SIGTERM and runs again elsewhere.  A run that stopped for another
reason (exit code 75) is tried again.  The description names the memory limit, since not every pool has cgroups.
"""

from __future__ import annotations

import shutil

from sextract.survey.jobscripts.script import JOB_SCRIPTS, MOST_STARTS, Script

# Time to stop in, seconds; two are promised.
VACATE_SECONDS = 30

COUNTED_ONCE = """\
# Accounting: by a cgroup (CGROUP_MEMORY_LIMIT_POLICY), which counts shared memory once, or by proportional sizes (USE_PSS).
# Where a pool holds jobs by MemoryUsage made of resident sizes, write this with --account rss.
"""
COUNTED_OFTEN = """\
# Accounting: by resident sizes that are added up: --account rss keeps that sum below the limit, too.
"""


def htcondor(script: Script) -> str:
    """A submit description."""
    program, *words = script.words(limit=True)
    arguments = " ".join(map(_argument, words))
    return f"""\
{script.head("condor_submit FILE")}# Images, catalogues and the program are on file systems that all machines share.
#
{script.sizes()}# About {script.clock} are set aside for a task elsewhere; HTCondor itself asks for no time.
{COUNTED_OFTEN if script.rss else COUNTED_ONCE}
universe = vanilla
initialdir = {script.folder}
executable = {shutil.which(program) or program}
transfer_executable = false
part = $(Process) + 1
arguments = "{arguments} --shard $INT(part)/{script.tasks}"
should_transfer_files = no
getenv = true

request_cpus = {script.cpus}
request_memory = {script.memory_mib}M

# 75: stopped, and something is left.
kill_sig = SIGTERM
job_max_vacate_time = {VACATE_SECONDS}
max_retries = {MOST_STARTS}
retry_until = ExitCode =!= 75

log = {script.name}.events
error = {script.name}_$INT(part).log

queue {script.tasks}
"""


def _argument(word: str) -> str:
    """A word in HTCondor's quotes, within a value in double quotes."""
    text = word.replace("$", "$(DOLLAR)").replace('"', '""')
    return text if word and not any(c.isspace() or c == "'" for c in word) else "'" + text.replace("'", "''") + "'"


JOB_SCRIPTS.add("htcondor", htcondor)
