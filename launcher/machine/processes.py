"""Processes of this machine: whose they are, what they hold, and which of them a job that is over has left behind."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import scrub
from launcher.messages import Message

if TYPE_CHECKING:
    import psutil

GRACE_S = 30.0
"""From SIGTERM to SIGKILL: time for a checkpoint that is being written."""
KILLED_S = 5.0
"""What the kernel gets to take a killed process away."""
RANK_VARIABLES = ("TORCHELASTIC_RUN_ID", "CROSS_RANK")
"""Of ranks that torchrun, accelerate or this launcher started, and of DeepSpeed's; each has a launcher in Python above it for
as long as its job runs."""
_SAME_START_S = 0.5
_SHOWN_LETTERS = 100
_PYTHON = re.compile(r"(python|pypy)[\w.]*")


@dataclass(frozen=True)
class Running:
    """One process."""

    pid: int
    parent: int = 0
    started: float = 0.0
    """Seconds since the epoch; with the pid it is one process alone, since pids are used again."""
    uid: int = 0
    user: str = ""
    name: str = ""
    argv: tuple[str, ...] = ()
    is_python: bool = False
    is_of_job: bool = False
    """Whether it is a rank, one of its children, or an agent of ours."""
    is_agent: bool = False
    """Whether it is an agent of ours, or was forked from one."""
    run_dir: str = ""
    """Of a job of ours; '' where it is not known."""

    @property
    def command(self) -> str:
        """Its command line on one line, cut, without secrets."""
        line = scrub.shown(" ".join(self.argv) or self.name).replace("\n", " ")
        return line if len(line) <= _SHOWN_LETTERS else line[: _SHOWN_LETTERS - 1] + "…"


def _nothing_open(prefix: str) -> Mapping[str, Collection[int]]:
    return {}


@dataclass(frozen=True)
class Processes:
    """What was running at one moment."""

    running: Mapping[int, Running] = field(default_factory=dict)
    listening: Mapping[int, int] = field(default_factory=dict)
    """The process that listens on a TCP port, where this user may know it."""
    opened: Callable[[str], Mapping[str, Collection[int]]] = _nothing_open
    """Which processes have a file open whose path begins so; those of other users are not seen."""
    own_pid: int = 0
    own_uid: int = 0
    now: float = 0.0
    shares_pids: bool = True
    """Whether a driver's process ids are those of this process: not in a container with process ids of its own."""

    def is_own(self, process: Running) -> bool:
        return process.uid == self.own_uid

    def is_left_over(self, process: Running) -> bool:
        """Whether it is this user's, and the launcher of its job is gone. Not where that is in doubt."""
        top = self._top(process)
        if not (process.is_of_job and self.is_own(process)) or top.parent == 0 or top.pid in self._own_line():
            return False
        above = self.running.get(top.parent)
        return above is None or not above.is_python

    def job_of(self, process: Running) -> list[Running]:
        """The processes of its job on this machine, the topmost first, that are this user's."""
        top = self._top(process)
        return [p for p in (top, *self._below(top.pid)) if self.is_own(p)]

    def by_driver(self, pid: int | None, container_pid: int | None, name: str) -> Running | None:
        """The process that a driver lists under these ids and this name; None where it cannot be said which that is."""
        number = pid if self.shares_pids else container_pid
        process = self.running.get(number) if number is not None else None
        shown, real = (re.sub(r"[^A-Za-z0-9]", "", text) for text in (name, process.name if process else ""))
        same = bool(shown and real) and (real.startswith(shown) or shown.startswith(real))
        return process if same else None

    def described(self, process: Running) -> Message:
        """It in words: pid, owner, age, command, and what is known of its job."""
        text = Message(
            "process {pid} of {user}, started {age} ago: {command}",
            pid=process.pid,
            user=process.user or process.uid,
            age=age(self.now - process.started),
            command=process.command,
        )
        if self.is_left_over(process):
            left_by = process.run_dir or Message("a job that is over")
            return Message("{text} (left over by {job})", text=text, job=left_by)
        if process.run_dir and self.is_own(process):
            return Message("{text} (of {run_dir}, which is running)", text=text, run_dir=process.run_dir)
        return text

    def _top(self, process: Running) -> Running:
        while (above := self.running.get(process.parent)) is not None and above.is_of_job:
            process = above
        return process

    def _below(self, pid: int) -> Iterator[Running]:
        for process in self.running.values():
            if process.parent == pid:
                yield process
                yield from self._below(process.pid)

    def _own_line(self) -> set[int]:
        """This process and those above it."""
        line, pid = set(), self.own_pid
        while pid and pid not in line:
            line.add(pid)
            pid = self.running[pid].parent if pid in self.running else 0
        return line


def look() -> Processes:
    """What is running now. Files below /proc are read; nothing is started."""
    import psutil

    fields = ["pid", "ppid", "create_time", "uids", "username", "name", "cmdline", "exe", "environ", "status"]
    running = {}
    for found in psutil.process_iter(fields):
        facts = found.info
        if facts["uids"] is not None and facts["status"] != psutil.STATUS_ZOMBIE:
            running[found.pid] = _running(facts)
    return Processes(
        running,
        _listening(),
        _opened,
        os.getpid(),
        os.getuid(),
        time.time(),
        _is_first_pid_namespace(),
    )


def _running(facts: Mapping[str, Any]) -> Running:
    argv, environ = tuple(facts["cmdline"] or ()), facts["environ"] or {}
    programs = {Path(path).name for path in (facts["exe"], *argv[:1]) if path}
    is_agent = any("launcher.worker" in word for word in argv[1:3])
    run_dir = argv[argv.index("--run-dir") + 1] if is_agent and "--run-dir" in argv[:-1] else ""
    return Running(
        pid=facts["pid"],
        parent=facts["ppid"] or 0,
        started=facts["create_time"] or 0.0,
        uid=facts["uids"].real,
        user=facts["username"] or "",
        name=facts["name"] or "",
        argv=argv,
        is_python=any(map(_PYTHON.fullmatch, programs)),
        is_of_job=is_agent or any(name in environ for name in RANK_VARIABLES),
        is_agent=is_agent,
        run_dir=run_dir or environ.get("ASCEND_LAUNCH_RUN_DIR", ""),
    )


def _listening() -> dict[int, int]:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        found = psutil.net_connections("tcp")
        return {c.laddr.port: c.pid for c in found if c.status == psutil.CONN_LISTEN and c.laddr and c.pid}
    return {}


def _opened(prefix: str) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            for target in _open_files(process / "fd"):
                if target.startswith(prefix):
                    found.setdefault(target, set()).add(int(process.name))
    return found


def _open_files(folder: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):  # another user's, or it has ended
        for link in folder.iterdir():
            with contextlib.suppress(OSError):
                yield str(link.readlink())


def _is_first_pid_namespace() -> bool:
    """The kernel gives the first one this number (PROC_PID_INIT_INO)."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == 0xEFFFFFFC
    except OSError:
        return True


def age(seconds: float) -> Message:
    """A time for people, in its largest unit."""
    for unit, text in ((86400, "{count} d"), (3600, "{count} h"), (60, "{count} min")):
        if seconds >= unit:
            return Message(text, count=int(seconds // unit))
    return Message("{count} s", count=max(0, int(seconds)))


def end(processes: Iterable[Running], grace_s: float = GRACE_S) -> list[Running]:
    """End them: SIGTERM, and SIGKILL for those that are there after `grace_s`; those that are there even then.

    What an agent of ours has started hears SIGTERM from the agent, in its time: a checkpoint needs the DataLoader's workers.
    Of a pid that meanwhile belongs to another process nothing is ended.
    """
    import psutil

    meant = {process.pid: process for process in processes}
    handles = {pid: handle for pid, process in meant.items() if (handle := _handle(process)) is not None}
    for pid, handle in handles.items():
        if not _is_below_agent(meant[pid], meant):
            with contextlib.suppress(psutil.Error):
                handle.terminate()
    _, staying = psutil.wait_procs(handles.values(), timeout=grace_s)
    for handle in staying:
        with contextlib.suppress(psutil.Error):
            handle.kill()
    _, staying = psutil.wait_procs(staying, timeout=KILLED_S)
    return [meant[handle.pid] for handle in staying]


def _is_below_agent(process: Running, among: Mapping[int, Running]) -> bool:
    while (above := among.get(process.parent)) is not None:
        if above.is_agent:
            return True
        process = above
    return False


def _handle(process: Running) -> psutil.Process | None:
    """A handle by which psutil signals this process and no later one of its pid."""
    import psutil

    with contextlib.suppress(psutil.Error):
        handle = psutil.Process(process.pid)
        if abs(handle.create_time() - process.started) < _SAME_START_S:
            return handle
    return None
