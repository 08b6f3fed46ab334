"""One agent a node: it imports what ranks need once, prepares the data, forks the ranks and watches them.

Files are the seam: plan.json and env.json in, one log and one error file a rank, failure.json out.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from launcher import rundir
from launcher.errors import EXIT_INTERRUPTED, EXIT_JOB_FAILED, EXIT_OK, EXIT_TERMINATED, EXIT_USER, LaunchError
from launcher.plan import Plan
from launcher.rundir import RunDir

POLL_S = 0.05
GRACE_S = 15.0
"""What ranks get between being told to stop and being killed; one deadline for all, in parallel."""
PR_SET_PDEATHSIG = 1
LOG_TAIL_LINES = 25


def main(argv: list[str] | None = None) -> int:
    """Run this node's share of a planned job; the exit code that the launcher returns."""
    parser = argparse.ArgumentParser(prog="python -m launcher.worker.agent", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--start-method", choices=("auto", "fork", "spawn"), default="auto")
    args = parser.parse_args(argv)
    die_with_parent(signal.SIGTERM)
    run = RunDir(args.run_dir)
    plan = run.plan()
    apply_env(run)
    agent = Agent(run, plan, args.node_rank, args.start_method)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, agent.on_signal)
    return agent.run()


@dataclass
class Child:
    """One process of ours: the data preparation (rank None) or a rank."""

    pid: int
    rank: int | None
    local_rank: int | None
    exit_code: int | None = None
    """As subprocess counts: negative for a signal."""
    ended_ns: int = 0


@dataclass
class Agent:
    """State of one node's job."""

    run_dir: RunDir
    plan: Plan
    node_rank: int
    start_method: str
    attempt: int = 0
    stop_signal: int | None = None
    children: list[Child] = field(default_factory=list)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; the loop acts on it."""
        if self.stop_signal is None:
            self.stop_signal = number

    def run(self) -> int:
        """Prepare, start, watch, and write failure.json where something went wrong."""
        self.run_dir.attempt(self.attempt).mkdir(parents=True, exist_ok=True)
        if not self._fork_is_safe_after(import_everything):
            self.start_method = "spawn"
        failure = self._prepare() or self._run_ranks()
        if self.stop_signal is not None:
            return EXIT_INTERRUPTED if self.stop_signal == signal.SIGINT else EXIT_TERMINATED
        if failure is None:
            return EXIT_OK
        rundir.write_json(self.run_dir.failure_path, failure)
        return EXIT_USER if failure.get("exit_code") == EXIT_USER else EXIT_JOB_FAILED

    def _fork_is_safe_after(self, imports: Callable[[Plan], None]) -> bool:
        """Import, then look: a forked child has none of its parent's threads, so there must be none."""
        if self.start_method == "spawn":
            return False
        started = time.monotonic()
        imports(self.plan)
        threads = _threads_that_a_fork_loses()
        safe = not threads or self.start_method == "fork"
        method = "fork" if safe else f"spawn, since a fork would lose the threads {', '.join(threads)}"
        self._event("imported", seconds=round(time.monotonic() - started, 2), start_method=method)
        return safe

    def _prepare(self) -> dict[str, Any] | None:
        log = self.run_dir.attempt(self.attempt) / "prepare.log"
        self.children = [self._start(None, None, {}, log)]
        self._wait()
        failure = self._first_failure()
        if failure is None and self.start_method != "spawn":
            from launcher.worker import ops

            ops.load(self.plan, print)  # built just now: loading takes no time, and forked ranks inherit it
        return failure

    def _run_ranks(self) -> dict[str, Any] | None:
        listener = None
        if self.stop_signal is not None:
            return None
        host, port = self._rendezvous()
        if self.plan.num_nodes == 1:
            # The port is ours from here on: nobody can take it between choosing it and the ranks' meeting.
            listener = socket.create_server((host, 0))
            port = listener.getsockname()[1]
        self.children = []
        for local_rank in range(self.plan.nproc_per_node):
            rank = self.node_rank * self.plan.nproc_per_node + local_rank
            env = self._rank_env(rank, local_rank, host, port)
            self.children.append(
                self._start(rank, local_rank, env, self.run_dir.rank_log(self.attempt, rank), listener)
            )
        store = _serve(listener, port) if listener else None
        self._event("ranks", world_size=self.plan.world_size, pids=[c.pid for c in self.children])
        self._wait()
        del store
        return self._first_failure()

    def _rendezvous(self) -> tuple[str, int]:
        if self.plan.num_nodes == 1:
            return "127.0.0.1", 0
        host, _, port = (self.plan.rdzv_endpoint or "").rpartition(":")
        return host.strip("[]"), int(port)

    def _rank_env(self, rank: int, local_rank: int, host: str, port: int) -> dict[str, str]:
        """torchrun's contract, so that any script finds what it expects."""
        plan = self.plan
        env = {
            "RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": plan.world_size,
            "LOCAL_WORLD_SIZE": plan.nproc_per_node, "GROUP_RANK": self.node_rank, "GROUP_WORLD_SIZE": plan.num_nodes,
            "ROLE_RANK": rank, "ROLE_WORLD_SIZE": plan.world_size, "ROLE_NAME": "default",
            "MASTER_ADDR": host, "MASTER_PORT": port,
            "TORCHELASTIC_RESTART_COUNT": self.attempt, "TORCHELASTIC_MAX_RESTARTS": 0,
            "TORCHELASTIC_RUN_ID": self.run_dir.path.name,
            # On one node the agent serves the store on a port it already holds, and every rank is a client of it.
            "TORCHELASTIC_USE_AGENT_STORE": str(plan.num_nodes == 1),
        }  # fmt: skip
        return {name: str(value) for name, value in env.items()}

    # -- processes ------------------------------------------------------------------------------------------------

    def _start(
        self,
        rank: int | None,
        local_rank: int | None,
        env: dict[str, str],
        log: Path,
        listener: socket.socket | None = None,
    ) -> Child:
        if self.start_method == "spawn":
            code = "prepare_main" if rank is None else "rank_main"
            argv = [sys.executable, "-c", f"from launcher.worker import agent; agent.{code}()"]
            argv += [str(self.run_dir.path), str(self.attempt)]
            with log.open("ab") as out:
                process = subprocess.Popen(
                    argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )
            return Child(process.pid, rank, local_rank)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _in_child(self.run_dir, self.attempt, rank, env, log, listener)
        return Child(pid, rank, local_rank)

    def _wait(self) -> None:
        """Until every child has ended. A failure or a signal ends the others: told first, killed at the deadline."""
        deadline = float("inf")
        while any(c.exit_code is None for c in self.children):
            for child in self.children:
                if child.exit_code is None:
                    _reap(child)
            failed = any(c.exit_code for c in self.children)
            if deadline == float("inf") and (failed or self.stop_signal is not None):
                deadline = time.monotonic() + GRACE_S
                # The pid alone, not its group: a checkpoint on SIGTERM needs the DataLoader workers alive.
                self._signal_all(signal.SIGTERM)
            if time.monotonic() > deadline:
                self._signal_all(signal.SIGKILL)
                deadline = time.monotonic() + GRACE_S
            time.sleep(POLL_S)

    def _signal_all(self, number: int) -> None:
        for child in self.children:
            if child.exit_code is None:
                os.kill(child.pid, number)

    def _first_failure(self) -> dict[str, Any] | None:
        """The failure that came first, by the monotonic clock all processes of a host share.

        A rank writes its error file where it raises, before any teardown, so a rank that fails as a consequence,
        or one that tears down slowly, is told from the one that began it.
        """
        failed = [c for c in self.children if c.exit_code]
        if not failed:
            return None
        causes = []
        for child in failed:
            record = rundir.read_json(error_file(self.run_dir, self.attempt, child.rank)) or {}
            causes.append((record.get("time_ns", child.ended_ns), child, record))
        _, child, record = min(causes, key=lambda cause: cause[0])
        return self._describe(child, record)

    def _describe(self, child: Child, record: dict[str, Any]) -> dict[str, Any]:
        log = self.run_dir.attempt(self.attempt) / "prepare.log"
        if child.rank is not None:
            log = self.run_dir.rank_log(self.attempt, child.rank)
        assert child.exit_code is not None
        out = {
            "rank": child.rank, "local_rank": child.local_rank, "node_rank": self.node_rank,
            "host": socket.gethostname(), "attempt": self.attempt, "process_exit_code": child.exit_code,
            "log": str(log), **record,
        }  # fmt: skip
        if not record:
            out |= {
                "what": _end_words(child.exit_code),
                "hint": f"its last words are in {log}",
                "exit_code": EXIT_JOB_FAILED,
            }
            out["traceback"] = rundir.tail(log, LOG_TAIL_LINES)
        return out

    def _event(self, kind: str, **values: Any) -> None:
        if self.node_rank == 0:
            rundir.append_event(self.run_dir.events_path, {"event": kind, **values})


def apply_env(run: RunDir) -> None:
    """Set what env.json says, never over a value that is already there."""
    for row in (rundir.read_json(run.env_path) or {}).get("set", []):
        os.environ.setdefault(row["name"], row["value"])


def import_everything(plan: Plan) -> None:
    """What every rank needs, imported once. Nothing here may touch a device or leave a thread."""
    from launcher.worker import rank

    rank.preload(plan)


def _threads_that_a_fork_loses() -> list[str]:
    # jemalloc (in pyarrow) registers fork handlers and goes on in the child without its background thread.
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    return sorted(name for name in names if name != "jemalloc_bg_thd")


def error_file(run: RunDir, attempt: int, rank: int | None) -> Path:
    """Where a rank, or the preparation (None), leaves its error."""
    return run.attempt(attempt) / "error_prepare.json" if rank is None else run.error_path(attempt, rank)


def prepare_main() -> NoReturn:
    """Entry of a spawned preparation."""
    die_with_parent(signal.SIGKILL)
    run, attempt = RunDir(Path(sys.argv[1])), int(sys.argv[2])
    os._exit(_guarded(run, attempt, None))


def rank_main() -> NoReturn:
    """Entry of a spawned rank."""
    die_with_parent(signal.SIGKILL)
    run, attempt = RunDir(Path(sys.argv[1])), int(sys.argv[2])
    os._exit(_guarded(run, attempt, int(os.environ["RANK"])))


def _in_child(
    run: RunDir, attempt: int, rank: int | None, env: dict[str, str], log: Path, listener: socket.socket | None
) -> NoReturn:
    """The life of a forked child. It never returns into the agent's code."""
    code = EXIT_JOB_FAILED
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(signal.SIGKILL)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        if listener is not None:
            listener.close()
        os.environ.update(env)
        code = _guarded(run, attempt, rank)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _guarded(run: RunDir, attempt: int, rank: int | None) -> int:
    """Do the child's work; its exit code. A rank writes its own error file, the preparation's is written here."""
    from launcher.worker import data, ops
    from launcher.worker import rank as rank_module

    try:
        if rank is None:
            plan = run.plan()
            ops.load(plan, lambda text: rundir.append_event(run.events_path, {"event": "note", "text": text}))
            data.prepare(plan, run)
        else:
            rank_module.main(run.path, attempt)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_JOB_FAILED
    except BaseException as error:
        path = error_file(run, attempt, rank)
        if not path.exists():
            rundir.write_json(path, describe_error(error, rank))
        traceback.print_exc()
        return error.exit_code if isinstance(error, LaunchError) else EXIT_JOB_FAILED
    return EXIT_OK


def describe_error(error: BaseException, rank: int | None) -> dict[str, Any]:
    """An error file's content: type, message, traceback, the monotonic time in ns, and what a user should do."""
    known = error if isinstance(error, LaunchError) else None
    return {
        "rank": rank,
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "time_ns": time.monotonic_ns(),
        "what": known.what if known else f"{type(error).__name__}: {error}",
        "hint": known.hint if known else "",
        "exit_code": known.exit_code if known else EXIT_JOB_FAILED,
    }


def die_with_parent(number: int) -> None:
    """Have the kernel signal this process when its parent is gone; nothing of ours outlives the agent."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it went between fork and here
        os._exit(EXIT_JOB_FAILED)


def _serve(listener: socket.socket, port: int) -> Any:
    """The rendezvous store, on the socket that is already listening. Made after the forks: it starts a thread."""
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _reap(child: Child) -> None:
    try:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
    except ChildProcessError:
        child.exit_code, child.ended_ns = EXIT_JOB_FAILED, time.monotonic_ns()
        return
    if pid:
        child.exit_code, child.ended_ns = os.waitstatus_to_exitcode(status), time.monotonic_ns()


def _end_words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and no exception"
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        return "was killed by SIGKILL, most likely by the kernel for want of host memory (see dmesg)"
    return f"was killed by {name}"


if __name__ == "__main__":
    try:
        status = main()
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.exit_code
    sys.exit(status)
