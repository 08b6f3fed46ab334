"""A real Slurm on one machine: munged, slurmctld and a slurmd for each node, all state in one temporary folder.

Usable by hand too: `python tests/cluster/slurm_rig.py COMMAND…` runs a command in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue")
PACKAGES = "munge slurmctld slurmd slurm-client"
START_S = 30.0
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> str:
    """Why the rig cannot run here; '' where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if absent:
        return f"no {', '.join(absent)} (Debian packages: {PACKAGES})"
    return "" if os.geteuid() == 0 else "slurmd needs root"


def config(folder: Path, nodes: Sequence[str], cpus: int, npus: int, host: str, ports: Sequence[int]) -> str:
    """slurm.conf: every node is this host on a port of its own, with `npus` cards that are counted and have no device.

    A requeued job waits until its old credential has expired, 120 s by default.
    """
    lines = [
        "ClusterName=rig",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports[0]}",
        "SlurmUser=root",
        f"AuthInfo=socket={folder}/munge.socket,cred_expire=5",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/slurmctld.log",
        f"SlurmdLogFile={folder}/slurmd-%n.log",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        "SlurmdParameters=config_overrides",
        "SchedulerParameters=sched_interval=1,bf_interval=1",
        "GresTypes=npu",
        "ReturnToService=2",
    ]
    for name, port in zip(nodes, ports[1:], strict=True):
        lines.append(f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} Gres=npu:{npus}")
    everyone = f"Nodes={','.join(nodes)} State=UP MaxTime=INFINITE"
    lines += ["PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE"]
    lines.append(f"PartitionName=main {everyone} Default=YES PriorityTier=1 GraceTime=60")
    lines.append(f"PartitionName=urgent {everyone} PriorityTier=2")
    return "\n".join(lines) + "\n"


class Rig:
    """The running cluster. `env` is what a client needs to reach it."""

    def __init__(self, nodes: Sequence[str] = ("node1", "node2"), cpus: int = 8, npus: int = 8) -> None:
        # Not pytest's folder: a socket's path has 107 bytes at most, and munge wants its folders closed to others.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.nodes = tuple(nodes)
        self.env = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._start(cpus, npus)
        except BaseException:
            self.stop()
            raise

    def _start(self, cpus: int, npus: int) -> None:
        folder = self.folder
        folder.chmod(0o755)
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o600)
        ports = _free_ports(1 + len(self.nodes))
        host = socket.gethostname().partition(".")[0]
        (folder / "slurm.conf").write_text(config(folder, self.nodes, cpus, npus, host, ports))
        (folder / "gres.conf").write_text(f"NodeName={','.join(self.nodes)} Name=npu Count={npus}\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
        munge = [
            f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "socket", "pid-file", "seed-file")
        ]
        self._daemon("munged", "--foreground", "--force", *munge, f"--log-file={folder}/munge.log")
        self._until((folder / "munge.socket").exists, "munged")
        self._daemon("slurmctld", "-D")
        # On a cluster nodes know each other's names. Here those who run on the nodes do, and nobody else.
        hosts = Path("/etc/hosts").read_text() + f"127.0.0.1 {' '.join(self.nodes)}\n"
        (folder / "hosts").write_text(hosts)
        own_hosts = 'mount --bind "$0" /etc/hosts && exec "$@"'
        for node in self.nodes:
            self._daemon("unshare", "--mount", "sh", "-c", own_hosts, f"{folder}/hosts", "slurmd", "-D", "-N", node)
        self._until(
            lambda: (
                self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%t").stdout.split() == ["idle"] * len(self.nodes)
            ),
            "nodes",
        )

    def _daemon(self, *argv: str) -> None:
        log = (self.folder / f"{argv[-1] if '-N' in argv else argv[0]}.out").open("wb")
        with log:
            # They end with the tests, even where those are killed.
            self._daemons.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *argv],
                    env={**os.environ, **self.env, "PATH": PATH},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    start_new_session=True,
                )
            )

    def _until(self, is_so, what: str) -> None:
        deadline = time.monotonic() + START_S
        while not is_so():
            dead = [d.args for d in self._daemons if d.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(
                    f"{p}:\n{p.read_text(errors='replace')[-2000:]}" for p in self.folder.glob("*.[lo][ou]*")
                )
                raise RuntimeError(f"{what}: {dead or f'not there after {START_S} s'}\n{logs}")
            time.sleep(0.1)

    def run(self, *argv: str, timeout_s: float = 60, **more) -> subprocess.CompletedProcess[str]:
        """A client command, to its end."""
        env = {**os.environ, "PATH": f"{os.environ['PATH']}:{PATH}", **self.env, **more.pop("env", {})}
        return subprocess.run(
            argv,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=more.pop("stdin", subprocess.DEVNULL),
            **more,
        )

    def field(self, job: str, name: str) -> str:
        """One of squeue's fields of a job, ended or not; '' where Slurm no longer knows it."""
        return self.run("squeue", "-h", "-t", "all", "-j", job, "-O", f"{name}:200").stdout.strip()

    def jobs(self) -> set[str]:
        """The ids of the jobs that wait, run or are ending."""
        return set(self.run("squeue", "-h", "-o", "%i").stdout.split())

    def wait(self, job: str, *states: str, timeout_s: float = 120) -> str:
        """Until the job is in one of these states; the state."""
        deadline = time.monotonic() + timeout_s
        while (state := self.field(job, "State")) not in states:
            assert time.monotonic() < deadline, f"job {job} is {state}, not {' or '.join(states)}"
            time.sleep(0.2)
        return state

    def stop(self) -> None:
        """End every job and daemon, and remove the folder."""
        if (self.folder / "slurm.conf").exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.run("scancel", "--signal=KILL", "--full", f"--user={os.geteuid()}", timeout_s=10)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
        for process in psutil.process_iter():  # slurmstepd and what it started, which belong to no daemon of ours
            with contextlib.suppress(psutil.Error):
                if self.env["SLURM_CONF"] == process.environ().get("SLURM_CONF") and process.pid != os.getpid():
                    steps = [p for p in process.parents() if p.name().startswith("slurmstepd")]
                    for one in [process, *steps]:
                        one.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running(**options) -> Iterator[Rig]:
    rig = Rig(**options)
    try:
        yield rig
    finally:
        rig.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


if __name__ == "__main__":
    with running() as rig:
        code = subprocess.run(sys.argv[1:], env={**os.environ, **rig.env}).returncode
    sys.exit(code)
