"""OpenPBS and PBS Professional: an array script for ``qsub``.

PBS has no signal before the end of the time, and sends SIGTERM then as it does to what is deleted.  So a timer stops the run
earlier, by SIGUSR1, and the script submits itself once more for that part alone: qrerun is the operators'.  PBS tells no job
its memory unless its cgroup hook is on, so the command says its limit.
"""

from __future__ import annotations

import shlex

from sextract.survey.jobscripts.script import JOB_SCRIPTS, LEAD_SECONDS, MOST_STARTS, Script, quoted, supervised

COUNTED_ONCE = """\
# Accounting: by PBS's cgroup hook, which counts shared memory once. Where MOM polls and adds up resident sizes ($enforce mem),
# write the script with --account rss.
"""
COUNTED_OFTEN = """\
# Accounting: by MOM, which polls and adds up resident sizes ($enforce mem): --account rss keeps that sum below the limit, too.
"""


def pbs(script: Script) -> str:
    """An array script."""
    timer = ["timeout", "--foreground", "--preserve-status", "--signal=USR1", str(script.seconds - LEAD_SECONDS)]
    command = quoted([*timer, *script.words(limit=True)]) + f' --shard "$part/{script.tasks}"'
    # An array has two members at least.
    array = f"#PBS -J 1-{script.tasks}\n" if script.tasks > 1 else ""
    return f"""\
#!/bin/bash
{script.head("qsub FILE")}#PBS -N {script.name[:15]}
{array}#PBS -l select=1:ncpus={script.cpus}:mem={script.memory_mib}mb
#PBS -l walltime={script.clock}
#PBS -j oe
#PBS -r y
#
{script.sizes()}{COUNTED_OFTEN if script.rss else COUNTED_ONCE}
set -u
cd {shlex.quote(script.folder)} || exit 1
part=${{SEXTRACT_PART:-${{PBS_ARRAY_INDEX:-1}}}}
start=${{SEXTRACT_START:-1}}
exec >>"{script.name}_$part.log" 2>&1
echo "$(date '+%F %T'): part $part of {script.tasks}, job $PBS_JOBID on $(hostname), start $start"

{supervised(command)}
# 75: stopped, and something is left; 138: before it could say so. After SIGTERM the job was deleted, or PBS runs it again.
case $code in 75 | 138)
    if [ "$stopped" != TERM ] && [ "$start" -lt {MOST_STARTS} ]; then
        echo "$(date '+%F %T'): stopped; submitted again"
        sed '/^#PBS -J /d' "$0" | qsub -v "SEXTRACT_PART=$part,SEXTRACT_START=$((start + 1))" ||
            echo "can't be submitted from here: submit the script once more when all tasks have ended" >&2
    fi
    ;;
esac
exit "$code"
"""


JOB_SCRIPTS.add("pbs", pbs)
