"""The process that forks ranks: it imported everything, has no thread of its own, and touches no device.

The agent beside it may run threads (a rendezvous does); a rank forked from a process with threads would inherit their
locks and not the threads. So the agent forks this one first, and asks it for ranks over a pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from launcher import streams
from launcher.errors import EXIT_JOB_FAILED, EXIT_OK, LaunchError
from launcher.recipe.program import ARGS, Program, as_typed
from launcher.rundir import paths
from launcher.rundir.paths import RunDir
from launcher.worker import program as program_module
from launcher.worker import start as start_module
from launcher.worker.agent import ending, gloo
from launcher.worker.runtime import failure, flight

LOOK_S = 1.0
"""A child's end wakes the zygote at once; this is for the one that ends between two waits."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Job:
    """What one child does: prepare the data (rank None), try out a fork (probe), or be a rank."""

    run_path: Path
    attempt: int
    rank: int | None
    env: dict[str, str]
    log: Path
    spawn: bool = False
    probe: bool = False
    program: Program | None = None
    """What a rank runs instead of the recipe's training, with the arguments as typed."""
    hooks: bool = False
    """Whether the program's libraries are watched."""
    stderr_log: Path | None = None
    """Where standard error goes, if not to `log` too."""


@dataclass(frozen=True)
class Started:
    pid: int


@dataclass(frozen=True)
class Ended:
    pid: int
    exit_code: int
    """As subprocess counts: negative for a signal."""
    time_ns: int


def start(close_in_child: Callable[[], None]) -> tuple[int, Connection]:
    """Fork the zygote from the calling process; its pid and the agent's end of the pipe."""
    import multiprocessing

    ours, theirs = multiprocessing.Pipe()
    flush()
    pid = os.fork()
    if pid == 0:
        code = EXIT_JOB_FAILED
        try:
            ours.close()
            close_in_child()
            _serve(theirs)
            code = EXIT_OK
        except BaseException:
            traceback.print_exc()
        finally:
            flush()
            os._exit(code)
    theirs.close()
    return pid, ours


def _serve(pipe: Connection) -> None:
    die_with_parent(signal.SIGKILL)
    # The agent asks ranks to stop. A signal to the whole group must not take their parent away.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # DataLoader workers of a rank that was killed come to us, and are ended here.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Asleep until a word comes or a child ends: on a node whose cores are all taken, each look costs a rank its turn.
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    ours: set[int] = set()
    while True:
        ready = connection.wait([pipe, woken], LOOK_S)
        if woken in ready:
            os.read(woken, 4096)
        if pipe in ready:
            try:
                kind, value = pipe.recv()
            except EOFError:
                return  # the agent is gone: the kernel ends the ranks with us
            if kind == "start":
                pid = _launch(value, pipe)
                ours.add(pid)
                pipe.send(Started(pid))
            elif kind == "signal":
                number, pids = value
                for pid in pids & ours:  # only those not reaped yet: their pids cannot belong to anybody else
                    os.kill(pid, number)
        _reap(ours, pipe)


def _launch(job: Job, pipe: Connection) -> int:
    if job.spawn and (job.program is None or job.program.kind != "executable"):
        # A program's working directory may hold anything: a `launcher`, a `datasets`.
        clean = "" if job.program is None else "sys.path[:] = [place for place in sys.path if place]; "
        code = f"import sys; {clean}from launcher.worker.agent import zygote; zygote.spawned(*sys.argv[1:])"
        argv = [
            sys.executable,
            "-c",
            code,
            str(job.run_path),
            str(job.attempt),
            "" if job.rank is None else str(job.rank),
        ]
        with contextlib.ExitStack() as logs:
            out, err = (logs.enter_context(os.fdopen(fd, "ab")) for fd in _open_logs(job))
            env = {**os.environ, **job.env}
            if job.program is not None:
                env[ARGS] = json.dumps(job.program.args)
            return subprocess.Popen(
                argv,
                env=env,
                stdin=None if job.program else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=program_module.reset_signals,  # noqa: PLW1509 - no threads here; what we ignore it would ignore too
            ).pid
    flush()
    pid = os.fork()
    if pid == 0:
        _child(job, pipe)
    return pid


def _open_logs(job: Job) -> tuple[int, int]:
    """What standard output and standard error of a child go to."""
    return paths.open_append(job.log), paths.open_append(job.stderr_log or job.log)


def _reap(ours: set[int], pipe: Connection) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in ours:
            ours.discard(pid)
            pipe.send(Ended(pid, os.waitstatus_to_exitcode(status), time.monotonic_ns()))
            for orphan in _children() - ours:
                os.kill(orphan, signal.SIGKILL)


def _children() -> set[int]:
    try:
        return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
    except OSError:  # a kernel without that file: each orphan still dies with its rank, see _child
        return set()


def _child(job: Job, pipe: Connection) -> NoReturn:
    """The life of a forked child. It never returns into the zygote's code."""
    code = EXIT_JOB_FAILED
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(signal.SIGKILL)
        # Linux shares the cores out by session (sched_autogroup): ranks of one session would get one process' share.
        os.setsid()
        # Whatever this rank forks (DataLoader workers) dies with it too.
        os.register_at_fork(after_in_child=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
        pipe.close()
        for stream, log in enumerate(_open_logs(job), 1):
            os.dup2(log, stream)
            os.close(log)
        os.environ.update(job.env)
        if job.program is None:
            code = _work(job.run_path, job.attempt, job.rank, probe=job.probe)
    except BaseException:
        traceback.print_exc()
        job = replace(job, program=None)
    if job.program is not None:
        _program(job.program, RunDir(job.run_path), job.attempt, job.rank or 0, has_hooks=job.hooks)
    flush()
    os._exit(code)


def _program(program: Program, run: RunDir, attempt: int, rank: int, *, has_hooks: bool) -> NoReturn:
    program_module.reset_signals()
    if program.kind == "executable":
        try:
            program_module.execute(program, int(os.environ["LOCAL_RANK"]))
        except LaunchError as error:
            code = failure.record(run.error_path(attempt, rank), error, rank)
            flush()
            os._exit(code)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    code = program_module.main(program, run, attempt, rank, has_hooks=has_hooks)
    if code == EXIT_OK:
        paths.touch(done_path(run, attempt, rank))
    else:
        flight.leave()
    program_module.flush()
    ending.end(code)


def spawned(run_path: str, attempt: str, rank: str) -> NoReturn:
    """Entry of a child in a fresh interpreter."""
    streams.settle(may_be_lost=True)
    die_with_parent(signal.SIGKILL)
    run = RunDir(Path(run_path))
    start_module.settle(run)
    plan = run.plan()
    if plan.program is not None and rank:
        gloo.settle()
        program = as_typed(plan.program, os.environ)
        _program(program, run, int(attempt), int(rank), has_hooks=plan.supervision.hooks == "auto")
    code = _work(Path(run_path), int(attempt), int(rank) if rank else None)
    flush()
    os._exit(code)


def _work(run_path: Path, attempt: int, rank: int | None, *, probe: bool = False) -> int:
    run = RunDir(run_path)
    try:
        if probe:
            from launcher.worker.agent import probe as probe_module

            probe_module.main(run.plan())
        elif rank is None:
            from launcher.worker import prepare

            prepare.main(run)
        else:
            from launcher.worker import rank as rank_module

            rank_module.main(run_path, attempt)
            paths.touch(done_path(run, attempt, rank))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else EXIT_JOB_FAILED if error.code else EXIT_OK
        if code == EXIT_OK and rank is not None:
            paths.touch(done_path(run, attempt, rank))
        return code
    except BaseException as error:
        return failure.record(error_path(run, attempt, rank), error, rank)
    return EXIT_OK


def error_path(run: RunDir, attempt: int, rank: int | None) -> Path:
    """Where a rank, or the preparation (None), leaves its error."""
    return run.attempt(attempt) / "error_prepare.json" if rank is None else run.error_path(attempt, rank)


def done_path(run: RunDir, attempt: int, rank: int) -> Path:
    """A rank's mark that it did its work: exit code 0 alone is also what os._exit(0) in the middle of it leaves."""
    return run.attempt(attempt) / f"done_{rank}"


def die_with_parent(number: int) -> None:
    """Have the kernel signal this process when its parent ends, whatever ends it."""
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it went between the fork and here
        os._exit(EXIT_JOB_FAILED)


def _prctl(option: int, value: int) -> None:
    prctl = ctypes.CDLL(None).prctl
    # The kernel reads whole registers; of an argument that goes as an int the upper half is nobody's on some processors.
    prctl.argtypes = [ctypes.c_int, *4 * [ctypes.c_ulong]]
    prctl(option, value, 0, 0, 0)


def flush() -> None:
    """What is buffered is written once, by this process, and not again by what it forks."""
    sys.stdout.flush()
    sys.stderr.flush()
