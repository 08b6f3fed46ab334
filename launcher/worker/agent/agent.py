"""One agent a node: it imports what ranks need once, has them forked, watches them, and starts them again.

Files are the seam: plan.json and env.json in; a log, an error file and a beat for each rank; failure.json out.
The agents of several nodes meet in worker/nodes.py; what happens on this node is decided here.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from launcher import files, scrub, streams
from launcher.errors import EXIT_INTERRUPTED, EXIT_JOB_FAILED, EXIT_OK, EXIT_TERMINATED, EXIT_USER, LaunchError
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.recipe.program import Program, as_typed
from launcher.rundir import events, paths, records
from launcher.rundir.paths import JOB_SECRET, LAST_WORDS, RunDir
from launcher.rundir.records import Event, Failure
from launcher.worker import program as program_module
from launcher.worker import start
from launcher.worker.agent import ending, stall, zygote
from launcher.worker.agent.nodes.link import FAILED, STALLED, Link, Meeting
from launcher.worker.agent.nodes.many import ManyNodes
from launcher.worker.agent.nodes.one import OneNode
from launcher.worker.runtime import failure

POLL_S = 0.1
"""How soon a signal or another node's word is acted on; a rank's end is heard at once."""
SPEAK_S = 1.0
"""How long the others may go on after a rank said that a peer is gone: the peer itself may be about to say why."""
FAILURE_GRACE_S = 5.0
"""From telling ranks to stop after a failure to killing them: time to unwind; no collective works any more."""
PROBE_S = 30.0
HARMLESS_THREADS = frozenset({"jemalloc_bg_thd"})
"""pyarrow's allocator registers fork handlers, and goes on in a forked child without its background thread."""


def main(argv: list[str] | None = None) -> int:
    """Run this node's share of a planned job; the exit code that the launcher returns."""
    parser = argparse.ArgumentParser(
        prog="python -m launcher.worker.agent", description="One node's share of a planned run."
    )
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--node-rank", type=int, default=0)
    args = parser.parse_args(argv)
    run = RunDir(args.run_dir)
    with run.hold():
        zygote.die_with_parent(signal.SIGTERM)
        plan = run.plan()
        start.settle(run)
        program = plan.program and as_typed(plan.program, os.environ)
        secret = os.environ.pop(JOB_SECRET, "")  # ranks, and what they print, need not know it
        agent = Agent(run, plan, args.node_rank, attempt=run.last_attempt + 1, secret=secret, program=program)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, agent.on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a session's end is no end of the job; ranks inherit it
        return agent.run()


@dataclass
class Child:
    """One process that the zygote started for us."""

    pid: int
    rank: int | None
    log: Path
    """Its last words are in it."""
    exit_code: int | None = None
    """As subprocess counts: negative for a signal; None while it runs."""
    ended_ns: int = 0
    was_told: bool = False
    """Whether it was signalled before it ended: then its end is no cause of anything."""


@dataclass
class Agent:
    """State of one node's job."""

    run_dir: RunDir
    plan: Plan
    node_rank: int
    attempt: int = 0
    secret: str = field(default="", repr=False)
    """What the nodes of the job share; '' where it has none."""
    stop_signal: int | None = None
    program: Program | None = None
    """What ranks run instead of the recipe's training, with the arguments as typed."""
    spawn: bool = False
    children: list[Child] = field(default_factory=list)
    pipe: Connection | None = None
    before: Failure | None = None
    """The failure that ended the attempt before this one."""

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; the loop acts on it."""
        if self.stop_signal is None:
            self.stop_signal = number

    def run(self) -> int:
        """Everything, once; failure.json where something went wrong."""
        paths.make_folder(self.run_dir.attempt(self.attempt))
        self._import()
        _, self.pipe = zygote.start(close_in_child=lambda: None)
        link = self._link()
        try:
            self._settle_start_method()  # before this process has threads of its own
            link.meet()
            found = self._prepare(link)
            link.declare((files.read_json(self.run_dir.data_path) or {}).get("digests", {}))
            found = self._attempts(link, found)
        except (LaunchError, OSError) as error:
            found = failure.describe(error, None).but(node_rank=self.node_rank, traceback="")
            if isinstance(error, OSError) and self.before is not None:
                # Files can no longer be written: most likely what ended that attempt, in better words.
                hint = Message(
                    "{hint}; no other attempt could begin: {what}", hint=self.before.hint, what=found.what
                ).lstrip("; ")
                found = self.before.but(hint=hint)
            link.give_up(found)
        finally:
            link.close()
        is_stopped = self.stop_signal is not None or self._was_preempted()
        if found is None and (not is_stopped or self._is_done()):
            return EXIT_OK
        if is_stopped:
            self._event(records.Stopped(signal=self.stop_signal))
            return EXIT_INTERRUPTED if self.stop_signal == signal.SIGINT else EXIT_TERMINATED
        assert found is not None
        self._leave_failure(found)
        return EXIT_USER if found.exit_code == EXIT_USER else EXIT_JOB_FAILED

    def _leave_failure(self, found: Failure) -> None:
        """failure.json; where the disk takes nothing any more, the launcher still hears of it."""
        try:
            events.write_failure(self.run_dir.failure_path, found)
        except OSError as error:
            unwritten = Message(
                "{failure_path} could not be written either: {problem}",
                failure_path=self.run_dir.failure_path,
                problem=error.strerror,
            )
            found = found.but(hint=f"{found.hint}; {unwritten}")
            if LAST_WORDS not in os.environ:  # started by hand
                raise
            os.write(int(os.environ[LAST_WORDS]), json.dumps(found.to_json()).encode())

    # -- before the ranks -----------------------------------------------------------------------------------------

    def _import(self) -> None:
        started = time.monotonic()
        self.spawn = self.plan.supervision.start_method == "spawn"
        if not self.spawn:
            gc.disable()  # imports leave hardly any garbage, and looking for it takes a tenth of their time
            if self.program is not None:
                self._preload_for(self.program)
            else:
                from launcher.worker import prepare, rank

                rank.preload(self.plan)
                del prepare
            # A full collection writes to every object that it looks at: each child would get copies of 125 MB.
            gc.freeze()
            gc.enable()
        self._event(records.Imported(seconds=round(time.monotonic() - started, 2)))

    def _preload_for(self, program: Program) -> None:
        if program.kind == "executable":
            return
        ending.begin()
        modules, reason = program_module.preload(self.plan)
        if (
            self.plan.accelerator.survives_exit
        ):  # a card's libraries write logs and release the card when they are taken apart
            ending.keep_libraries()
        self._event(records.Preload(modules=modules, reason=reason))

    def _settle_start_method(self) -> None:
        """Fork, unless a trial says that it is not safe."""
        if self.program is not None and self.program.kind == "executable":
            return
        asked, why = self.plan.supervision.start_method, ""
        if asked == "auto":
            threads = sorted(set(_thread_names()) - HARMLESS_THREADS)
            why = (
                Message("a fork would lose the threads {threads}", threads=", ".join(threads))
                if threads
                else self._probe()
            )
            self.spawn = bool(why)
        method = "spawn" if self.spawn else "fork"
        self._event(records.StartMethod(method=method, reason=why or f"--start-method {asked}"))

    def _probe(self) -> str:
        """Why a forked child does not work; '' where it does."""
        log = self.run_dir.attempt(self.attempt) / "probe.log"
        self.children = [self._start(None, {}, log, probe=True)]
        deadline = time.monotonic() + PROBE_S
        while self.children[0].exit_code is None and self.stop_signal is None:
            self._listen()
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
                deadline = float("inf")
        code = self.children[0].exit_code
        return (
            ""
            if not code
            else Message(
                "a forked child {detail}, see {log}",
                detail="hung" if code == -signal.SIGKILL else Message("ended with code {code}", code=code),
                log=log,
            )
        )

    def _prepare(self, link: Link) -> Failure | None:
        if self.program is not None:
            return None
        log = self.run_dir.attempt(self.attempt) / "prepare.log"
        self.children = [self._start(None, {}, log)]
        told = False
        while self.children[0].exit_code is None:
            self._listen()
            if (link.pulse("") or self.stop_signal is not None) and not told:
                told = True
                self._signal(signal.SIGKILL)  # it changes nothing that a lock and a rename do not protect
        return None if self.stop_signal is not None else self._first_failure()

    # -- attempts -------------------------------------------------------------------------------------------------

    def _attempts(self, link: Link, found: Failure | None) -> Failure | None:
        """Attempts until one ends well or none is left; `found` is the failure before the first, if there is one."""
        left = self.plan.supervision.max_restarts
        while self.stop_signal is None:
            meeting = link.join(self.attempt, found)
            if not isinstance(meeting, Meeting):
                return meeting
            self.attempt = meeting.attempt
            paths.make_folder(self.run_dir.attempt(self.attempt))
            outcome = self._attempt(meeting, link)
            found, again = link.settle(outcome, self._may_restart if left else lambda found: False)
            if found is None or not again or self.stop_signal is not None:
                return found
            left -= 1
            self.attempt += 1
            self.before = found
            restarts = self.plan.supervision.max_restarts
            self._event(
                records.Restart(attempt=restarts - left, of_restarts=restarts, rank=found.rank, what=found.what)
            )
            found = None
        return None

    def _may_restart(self, found: Failure) -> bool:
        return found.exit_code != EXIT_USER and not self._was_preempted()

    def _link(self) -> Link:
        if self.plan.num_nodes == 1:
            return OneNode(self.plan, str(self.run_dir.path.resolve()))
        return ManyNodes(
            self.plan,
            self.node_rank,
            stop=lambda: self.stop_signal,
            on_stop=lambda number: self.on_signal(number, None),
            secret=self.secret,
            note=lambda text: self._event(records.Note(text=text)),
        )

    def _attempt(self, meeting: Meeting, link: Link) -> Failure | None:
        first = self.node_rank * self.plan.nproc_per_node
        self.children = []
        for local_rank in range(self.plan.nproc_per_node):
            rank = first + local_rank
            env = self._rank_env(rank, local_rank, meeting)
            logs = self._logs(rank, local_rank)
            self.children.append(self._start(rank, env, *logs))
        self._event(records.Ranks(attempt=self.attempt, pids=[c.pid for c in self.children]))
        watch = stall.Watch(self.run_dir.attempt(self.attempt), self.plan.supervision.hang_timeout_s)
        return self._watch(link, watch)

    def _logs(self, rank: int, local_rank: int) -> tuple[Path, Path | None]:
        """What a rank's standard output goes to, and its standard error where that has a log of its own."""
        if self.program is not None and local_rank in self.program.separate_logs:
            return self.run_dir.stdout_log(self.attempt, rank), self.run_dir.stderr_log(self.attempt, rank)
        return self.run_dir.rank_log(self.attempt, rank), None

    def _watch(self, link: Link, watch: stall.Watch) -> Failure | None:
        """Until every rank of this node has ended; the failure that came first here, or None."""
        tell_at = kill_at = float("inf")
        told, is_stopping, stalled, oom_kills = False, False, None, _oom_kills()
        while self._running():
            self._listen()
            now = time.monotonic()
            failed = [c for c in self.children if self._has_failed(c)]
            trouble = link.pulse(STALLED if stalled else FAILED if failed else "")
            if self.stop_signal is not None and not is_stopping:
                is_stopping = True
                tell_at, kill_at = now, min(kill_at, now + self.plan.supervision.grace_s)
            elif (failed or trouble == FAILED) and tell_at == float("inf"):
                tell_at = now + (SPEAK_S if all(self._followed(c) for c in failed) else 0.0)
                kill_at = tell_at + FAILURE_GRACE_S
            elif stalled is None and tell_at == float("inf"):
                at_once = trouble == STALLED
                stalled = watch.look({c.rank: c.pid for c in self._running() if c.rank is not None}, at_once=at_once)
                if stalled is not None:
                    stalled = stalled.but(node_rank=self.node_rank)
                    if stalled.weight == failure.CAUSE:
                        self._event(records.Hang(what=stalled.what))
                if stalled is not None or at_once:
                    tell_at, kill_at, told = now, now, True
            if now >= tell_at and not told:
                told = True
                # The pid alone: a checkpoint needs the DataLoader workers alive. A program hears the signal that was sent,
                # so that ^C reaches its `except KeyboardInterrupt`.
                self._signal(self.stop_signal if self.program and is_stopping and self.stop_signal else signal.SIGTERM)
            if now >= kill_at:
                self._signal(signal.SIGKILL)
                kill_at = float("inf")
        return stalled or self._first_failure(_oom_kills() - oom_kills)

    # -- processes ------------------------------------------------------------------------------------------------

    def _start(
        self, rank: int | None, env: dict[str, str], log: Path, stderr_log: Path | None = None, *, probe: bool = False
    ) -> Child:
        assert self.pipe is not None
        program = None if rank is None else self.program
        job = zygote.Job(self.run_dir.path, self.attempt, rank, env, log, self.spawn, probe, program, stderr_log)
        self.pipe.send(("start", job))
        while True:
            message = self._receive()
            if isinstance(message, zygote.Started):
                return Child(message.pid, rank, stderr_log or log)
            self._on_end(message)

    def _listen(self) -> None:
        assert self.pipe is not None
        if self.pipe.poll(POLL_S):
            self._on_end(self._receive())

    def _receive(self) -> Any:
        assert self.pipe is not None
        try:
            return self.pipe.recv()
        except EOFError:
            raise LaunchError(
                "the process that starts ranks was killed, and every rank with it",
                hint="most likely the kernel ran out of host memory: use fewer ranks or a smaller batch",
                exit_code=EXIT_JOB_FAILED,
            ) from None

    def _on_end(self, message: zygote.Ended) -> None:
        for child in self.children:
            if child.pid == message.pid:
                child.exit_code, child.ended_ns = message.exit_code, message.time_ns

    def _signal(self, number: int) -> None:
        assert self.pipe is not None
        for child in self._running():
            child.was_told = True
        self.pipe.send(("signal", (number, {c.pid for c in self._running()})))

    def _running(self) -> list[Child]:
        return [c for c in self.children if c.exit_code is None]

    # -- failures -------------------------------------------------------------------------------------------------

    def _record(self, child: Child) -> Failure | None:
        found = events.read_failure(zygote.error_path(self.run_dir, self.attempt, child.rank))
        if found is None and self.program is not None and child.rank is not None:
            return failure.of_torchelastic(self._torchelastic_error(child.rank))
        return found

    def _torchelastic_error(self, rank: int) -> Path:
        return self.run_dir.attempt(self.attempt) / f"torchelastic_error_{rank}.json"

    def _is_early(self, child: Child) -> bool:
        """Whether a rank ended with code 0 and without having done its work."""
        if child.exit_code != 0 or child.rank is None:
            return False
        return not zygote.done_path(self.run_dir, self.attempt, child.rank).exists()

    def _is_done(self) -> bool:
        """Whether every rank of this node has done its work: then a word to stop came too late to matter. A program of the
        user's may end with 0 because it was told to stop."""
        return (
            bool(self.children)
            and self.program is None
            and all(c.rank is not None and c.exit_code == 0 and not self._is_early(c) for c in self.children)
        )

    def _has_failed(self, child: Child) -> bool:
        if child.exit_code is None:
            return False
        if self.program is not None:  # its own exit codes mean nothing to us, and ending by os._exit(0) is its right
            return bool(child.exit_code)
        return not failure.is_preempted(child.exit_code) and (bool(child.exit_code) or self._is_early(child))

    def _followed(self, child: Child) -> bool:
        record = self._record(child)
        return record is not None and record.weight != failure.CAUSE

    def _was_preempted(self) -> bool:
        """Whether a rank left as one does that was told to stop, by somebody else than this agent for another's failure."""
        return self.program is None and any(failure.is_preempted(c.exit_code) and not c.was_told for c in self.children)

    def _first_failure(self, oom_kills: int = 0) -> Failure | None:
        found = []
        for child in self.children:
            if not self._has_failed(child):
                continue
            record = self._record(child)
            if record is None:
                if child.was_told:
                    continue
                record = failure.of_exit(child.exit_code or 0, child.log, oom_kills)
                record = record.but(time_ns=child.ended_ns, time=time.time())
            found.append(self._located(child, record))
        return failure.first([*found, *self._left_early()] if found else found)

    def _left_early(self) -> list[Failure]:
        """Ranks of a program that ended with code 0 before its end, as os._exit(0) does. That is a failure only where
        others went down, and a cause only where those say no more than that a peer is gone."""
        if self.program is None or self.program.kind == "executable":
            return []
        return [
            self._located(child, failure.of_exit(0, child.log)).but(
                time_ns=child.ended_ns, time=time.time(), weight=failure.IN_FLIGHT
            )
            for child in self.children
            if self._is_early(child) and not child.was_told
        ]

    def _located(self, child: Child, record: Failure) -> Failure:
        local_rank = None if child.rank is None else child.rank - self.node_rank * self.plan.nproc_per_node
        return record.but(
            rank=child.rank,
            local_rank=local_rank,
            node_rank=self.node_rank,
            host=socket.gethostname(),
            attempt=self.attempt,
            process_exit_code=child.exit_code,
            log=str(child.log),
        )

    def _rank_env(self, rank: int, local_rank: int, meeting: Meeting) -> dict[str, str]:
        """torchrun's contract, so that any script finds what it expects."""
        plan = self.plan
        env = {
            "RANK": rank,
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": plan.world_size,
            "LOCAL_WORLD_SIZE": plan.nproc_per_node,
            "GROUP_RANK": self.node_rank,
            "GROUP_WORLD_SIZE": plan.num_nodes,
            "ROLE_RANK": rank,
            "ROLE_WORLD_SIZE": plan.world_size,
            "ROLE_NAME": self.program.role if self.program else "default",
            "MASTER_ADDR": meeting.host,
            "MASTER_PORT": meeting.port,
            "TORCHELASTIC_RESTART_COUNT": self.attempt,
            "TORCHELASTIC_MAX_RESTARTS": plan.supervision.max_restarts,
            "TORCHELASTIC_RUN_ID": self.run_dir.path.name,
            # An agent serves the store, on a port it holds already; every rank is a client of it.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_ERROR_FILE": self._torchelastic_error(rank),
        }
        if self.program is not None:
            env |= {"ASCEND_LAUNCH_RUN_DIR": self.run_dir.path}
        return {name: str(value) for name, value in (env | self._network_env(meeting)).items()}

    def _network_env(self, meeting: Meeting) -> dict[str, str]:
        """What only the meeting tells: the interface towards the other nodes, and ports that are free on all of them.
        What the user has set stays."""
        env = {}
        if meeting.interface is not None and "GLOO_SOCKET_IFNAME" not in os.environ:
            # Gloo otherwise asks for the host's own name, which resolves to 127.0.1.1 on many machines.
            env["GLOO_SOCKET_IFNAME"] = meeting.interface
        return env | self.plan.accelerator.meeting_variables(os.environ, meeting.interface, meeting.hccl_base)

    def _event(self, event: Event) -> None:
        if self.node_rank == 0:
            events.append_event(self.run_dir.events_path, event)


def _thread_names() -> list[str]:
    own = str(os.getpid())
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir() if task.name != own]


def _oom_kills() -> int:
    """How often the kernel killed for memory in this container so far; 0 where that is not told."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError, ValueError):
            for line in Path(path).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def end() -> NoReturn:
    """Run as a program, and end with main's code."""
    streams.settle(may_be_lost=True)
    try:
        status = main()
    except LaunchError as error:
        print(scrub.shown(f"error: {error}"), file=sys.stderr)
        status = error.exit_code
    zygote.flush()
    # Not sys.exit: taking torch down costs seconds on a busy host, and a thread may still wait on a link that was cut.
    os._exit(status)


if __name__ == "__main__":
    end()
