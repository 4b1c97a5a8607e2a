"""Slurm: an array script for ``sbatch``.

Slurm sends SIGUSR1 to the shell some minutes before the time is over; the shell passes it on, and has a task that stopped for
it queued again.  After SIGTERM it doesn't: Slurm sends that to what is cancelled, which would come back, or preempted, which it
queues again itself.
"""

from __future__ import annotations

import shlex

from sextract.survey.jobscripts.script import JOB_SCRIPTS, LEAD_SECONDS, MOST_STARTS, Script, quoted, supervised

COUNTED_ONCE = """\
# Accounting: by a cgroup (ConstrainRAMSpace=yes), or by polling with JobAcctGatherParams=UsePss or NoShared, which count shared
# memory once. Where Slurm adds up Rss and ends what is above (OverMemoryKill alone), write the script with --account rss.
"""
COUNTED_OFTEN = """\
# Accounting: by polling that adds up Rss (JobAcctGatherParams=OverMemoryKill without UsePss or NoShared): --account rss keeps
# that sum below the limit, too. Where a cgroup counts, the script is better written without it.
"""


def slurm(script: Script) -> str:
    """An array script."""
    limit = "Each task takes its memory limit and workers from the job: SLURM_MEM_PER_NODE, SLURM_CPUS_PER_TASK or the cgroup."
    command = quoted(script.words(limit=False)) + f' --shard "$SLURM_ARRAY_TASK_ID/{script.tasks}"'
    return f"""\
#!/bin/bash
{script.head("sbatch FILE")}#SBATCH --job-name={script.name}
#SBATCH --chdir={shlex.quote(script.folder)}
#SBATCH --array=1-{script.tasks}
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task={script.cpus}
#SBATCH --mem={script.memory_mib}M
#SBATCH --time={script.clock}
#SBATCH --signal=B:USR1@{LEAD_SECONDS}
#SBATCH --requeue --open-mode=append
#SBATCH --output={script.name}_%A_%a.log
#
{script.sizes()}{"" if script.limit_given else f"# {limit}{chr(10)}"}{COUNTED_OFTEN if script.rss else COUNTED_ONCE}
set -u
start=${{SLURM_RESTART_COUNT:-0}}
echo "$(date '+%F %T'): part $SLURM_ARRAY_TASK_ID of {script.tasks}, job $SLURM_JOB_ID on $(hostname), start $((start + 1))"

{supervised(command)}
# 75: stopped, and something is left; 138: before it could say so. After SIGTERM the job is somebody else's to queue again.
case $code in 75 | 138)
    if [ "$stopped" != TERM ] && [ "$start" -lt {MOST_STARTS} ]; then
        echo "$(date '+%F %T'): stopped; queued again"
        scontrol requeue "$SLURM_JOB_ID" || echo "can't be queued again here: submit the script once more" >&2
    fi
    ;;
esac
exit "$code"
"""


JOB_SCRIPTS.add("slurm", slurm)
