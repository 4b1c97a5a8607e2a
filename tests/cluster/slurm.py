"""A Slurm of our own on this machine: munged, slurmctld and slurmd in a temporary folder, on ports of the loopback.

They are children of the tests, need no privileges, no service manager and no accounting storage, and nothing is left of them.
Slurm has a job that is queued again wait as long as credentials last: here five seconds, the least there can be.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from sextract.execution.environment import tied
from tests.conftest import alive_after_grace
from tests.memory_watch import MARK, processes

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
# Debian has daemons where only root looks.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
# Time for the daemons to start, for a job to begin, and for a pause between two looks.
START_SECONDS, JOB_SECONDS, LOOK_SECONDS = 120.0, 300.0, 0.05

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin={task}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams={accounting}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
MailProg=/bin/true
JobRequeue=1
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4096 State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


# A cgroup gets 8 tenths of what a job asks for, so that it is the tightest limit.
CGROUPS = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint={mount}
ConstrainRAMSpace=yes
AllowedRAMSpace=80
"""


class NoSlurm(Exception):
    """It can't be had here, and why."""


class Slurm:
    """A cluster of one node with four processors, from entering to leaving the context.

    Parameters
    ----------
    accounting : str
        JobAcctGatherParams.  Every second Slurm looks at what a job holds, and ends what is above its memory.
    cgroup : bool
        Whether jobs have memory cgroups (version 1, as root), so that the kernel ends what is above.

    Attributes
    ----------
    folder : Path
        Configuration, state and logs.
    """

    def __init__(self, accounting: str = "UsePss,OverMemoryKill", cgroup: bool = False) -> None:
        self._accounting = accounting
        self._cgroup = _memory_cgroups() if cgroup else None
        self._mark = uuid.uuid4().hex
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
        if missing:
            raise NoSlurm(f"no {', '.join(missing)} (Debian's slurm-wlm and munge)")
        # Sockets have short names.
        self._temporary = tempfile.TemporaryDirectory(prefix="sextract-slurm-")
        self.folder = Path(self._temporary.name)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        left: set[int] = set()
        try:
            self.run("scancel", "--user", getpass.getuser(), check=False)
            self.wait_for(lambda: not self.run("squeue", "--noheader", check=False))
            # What looked after a job may still be at its end.
            self.wait_for(lambda: processes(self._mark) <= self._idle)
        finally:
            left = self._stop()
        assert not left, f"processes left behind: {left}"

    @property
    def environment(self) -> dict[str, str]:
        """For Slurm's commands and, through ``sbatch``, for jobs."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**inherited, "PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: object, check: bool = True, env: Mapping[str, str] | None = None) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(
            [*map(str, command)], env={**self.environment, **(env or {})}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, script: Path, *options: object, env: Mapping[str, str] | None = None) -> int:
        """Submit a script; the job's number."""
        return int(self.run("sbatch", "--parsable", *options, script, env=env))

    def facts(self, job: object) -> dict[str, str]:
        """What ``scontrol show job`` says of a job or a task of an array (``12_1``)."""
        words = self.run("scontrol", "show", "job", job, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, condition: Callable[[], object], seconds: float = JOB_SECONDS) -> None:
        """Look until a condition holds; an error with the daemons' logs if it doesn't come to that, or one of them ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            for daemon in self._daemons:
                try:
                    code = daemon.wait(LOOK_SECONDS / len(self._daemons))
                except subprocess.TimeoutExpired:
                    continue
                raise NoSlurm(f"{daemon.args} ended with code {code}: {self._said()}")
            assert time.monotonic() < deadline, f"it didn't come to that in {seconds:.0f} s: {self._said()}"

    def _start(self) -> None:
        host = _host()
        control_port, node_port = _free_ports(2)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=host, user=getpass.getuser(), folder=self.folder, control_port=control_port, node_port=node_port,
                accounting=self._accounting, task="task/cgroup" if self._cgroup else "task/none",
            )
        )  # fmt: skip
        if self._cgroup:
            (self.folder / "cgroup.conf").write_text(CGROUPS.format(mount=self._cgroup.parent.parent))
        names = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munged.pid", "seed-file": "munged.seed"}
        # Its folder is ours alone, where it would rather have one that everybody can look into.
        self._begin("munged", "--foreground", "--force", *(f"--{key}={self.folder / name}" for key, name in names.items()))
        self.wait_for((self.folder / "munge.socket").exists, START_SECONDS)
        self._begin("slurmctld", "-D")
        self._begin("slurmd", "-D", "-N", host)
        self.wait_for(lambda: self.run("sinfo", "--noheader", "--format=%T", check=False) == "idle", START_SECONDS)
        self._idle = processes(self._mark)

    def _begin(self, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=PATH)
        assert path is not None
        with open(self.folder / f"{program}.out", "wb") as out:
            self._daemons.append(
                subprocess.Popen(
                    tied([path, *arguments]), env={**self.environment, MARK: self._mark}, stdin=subprocess.DEVNULL, stdout=out,
                    stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True,
                )
            )  # fmt: skip

    def _said(self) -> str:
        """The last lines of all logs."""
        logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"{log.name}: {line}" for log in logs for line in log.read_text().splitlines()[-15:])

    def _stop(self) -> set[int]:
        """End the daemons, last first; process ids of what they leave."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        left = alive_after_grace(processes(self._mark))
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        if self._cgroup and self._cgroup.exists():
            for folder, _, _ in os.walk(self._cgroup, topdown=False):
                os.rmdir(folder)
        if self._temporary is not None:
            self._temporary.cleanup()
        return left


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _memory_cgroups() -> Path:
    """The folder that Slurm will make for the memory cgroups of its jobs."""
    mount = Path("/sys/fs/cgroup/memory")
    if os.geteuid() or not (mount / "memory.limit_in_bytes").exists() or not os.access(mount, os.W_OK):
        raise NoSlurm("memory cgroups need root, and version 1 of them")
    folder = mount / f"slurm_{_host()}"
    if folder.exists():
        raise NoSlurm(f"there is a Slurm on this machine: {folder}")
    return folder


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
