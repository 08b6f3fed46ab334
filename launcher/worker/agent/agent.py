"""One agent a node: it imports what ranks need once, has them forked, watches them, and starts them again.

Files are the seam: plan.json and env.json in; a log, an error file and a beat for each rank; failure.json out.
The agents of several nodes meet in worker/agent/nodes; what happens on this node is decided here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from launcher import files, scrub, streams
from launcher.errors import EXIT_INTERRUPTED, EXIT_JOB_FAILED, EXIT_OK, EXIT_TERMINATED, EXIT_USER, LaunchError
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.recipe.program import Program, as_typed
from launcher.rundir import events, paths, records
from launcher.rundir.paths import JOB_SECRET, RunDir
from launcher.rundir.records import Event, Failure
from launcher.worker import start
from launcher.worker.agent import collectives, failures, stall, start_method, zygote
from launcher.worker.agent.activity import Activity
from launcher.worker.agent.children import Children
from launcher.worker.agent.failures import Judge
from launcher.worker.agent.nodes.link import FAILED, STALLED, Link, Meeting
from launcher.worker.agent.nodes.many import ManyNodes
from launcher.worker.agent.nodes.one import OneNode
from launcher.worker.agent.rank_env import Place, rank_env
from launcher.worker.runtime import failure, heartbeat

SPEAK_S = 1.0
"""How long the others may go on after a rank said that a peer is gone: the peer itself may be about to say why."""
FAILURE_GRACE_S = 5.0
"""From telling ranks to stop after a failure to killing them: time to unwind; no collective works any more."""


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
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the job outlives its session; ranks inherit it
        return agent.run()


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
    children: Children = field(init=False, repr=False)
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
        _, pipe = zygote.start(close_in_child=lambda: None)
        self.children = Children(pipe)
        link = self._link()
        try:
            self._settle_start_method()  # before this process has threads of its own
            link.meet()
            job_failure = self._prepare(link)
            link.declare((files.read_json(self.run_dir.data_path) or {}).get("digests", {}))
            job_failure = self._attempts(link, job_failure)
        except (LaunchError, OSError) as error:
            job_failure = failure.describe(error, None).but(node_rank=self.node_rank, traceback="")
            if isinstance(error, OSError) and self.before is not None:
                # Files can no longer be written: most likely what ended that attempt, said more clearly.
                hint = Message(
                    "{hint}; no other attempt could begin: {what}", hint=self.before.hint, what=job_failure.what
                ).lstrip("; ")
                job_failure = self.before.but(hint=hint)
            link.give_up(job_failure)
        finally:
            link.close()
        is_stopped = self.stop_signal is not None or self._judge.was_preempted()
        if job_failure is None and (not is_stopped or self._judge.is_done()):
            return EXIT_OK
        if is_stopped:
            self._event(records.Stopped(signal=self.stop_signal))
            return EXIT_INTERRUPTED if self.stop_signal == signal.SIGINT else EXIT_TERMINATED
        assert job_failure is not None
        failures.leave(self.run_dir, job_failure)
        return EXIT_USER if job_failure.exit_code == EXIT_USER else EXIT_JOB_FAILED

    # -- before the ranks -----------------------------------------------------------------------------------------

    def _import(self) -> None:
        started = time.monotonic()
        self.spawn = self.plan.supervision.start_method == "spawn"
        if not self.spawn and (preload := start_method.import_once(self.plan, self.program)):
            self._event(preload)
        self._event(records.Imported(seconds=round(time.monotonic() - started, 2)))

    def _settle_start_method(self) -> None:
        if self.program is not None and self.program.kind == "executable":
            return
        log = self.run_dir.attempt(self.attempt) / "probe.log"
        trial = zygote.Job(self.run_dir.path, self.attempt, None, {}, log, probe=True)
        asked = self.plan.supervision.start_method
        method, reason = start_method.settle(asked, self.children, trial, lambda: self.stop_signal is not None)
        self.spawn = method == "spawn"
        self._event(records.StartMethod(method=method, reason=reason))

    def _prepare(self, link: Link) -> Failure | None:
        if self.program is not None:
            return None
        log = self.run_dir.attempt(self.attempt) / "prepare.log"
        self.children.forget()
        child = self.children.start(zygote.Job(self.run_dir.path, self.attempt, None, {}, log, self.spawn))
        is_killed = False
        while child.exit_code is None:
            self.children.listen()
            if (link.pulse("") or self.stop_signal is not None) and not is_killed:
                is_killed = True
                self.children.signal(signal.SIGKILL)  # it changes nothing that a lock and a rename do not protect
        return None if self.stop_signal is not None else self._judge.first_failure()

    # -- attempts -------------------------------------------------------------------------------------------------

    def _attempts(self, link: Link, last_failure: Failure | None) -> Failure | None:
        """Attempts until one ends well or none is left; `last_failure` is the one before the first, if any."""
        left = self.plan.supervision.max_restarts
        while self.stop_signal is None:
            meeting = link.join(self.attempt, last_failure)
            if not isinstance(meeting, Meeting):
                return meeting
            self.attempt = meeting.attempt
            paths.make_folder(self.run_dir.attempt(self.attempt))
            outcome = self._attempt(meeting, link)
            recorded = collectives.collect(self.run_dir.attempt(self.attempt))
            last_failure, again = link.settle(outcome, self._may_restart if left else lambda _: False, recorded)
            if last_failure is None or not again or self.stop_signal is not None:
                return last_failure
            left -= 1
            self.attempt += 1
            self.before = last_failure
            restarts = self.plan.supervision.max_restarts
            self._event(
                records.Restart(
                    attempt=restarts - left, of_restarts=restarts, rank=last_failure.rank, what=last_failure.what
                )
            )
            last_failure = None
        return None

    def _may_restart(self, last_failure: Failure) -> bool:
        return last_failure.exit_code != EXIT_USER and not self._judge.was_preempted()

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
        self.children.forget()
        for local_rank in range(self.plan.nproc_per_node):
            rank = first + local_rank
            place = Place(rank, local_rank, self.node_rank, self.attempt)
            env = rank_env(self.run_dir, self.plan, self.program, place, meeting)
            log, stderr_log = self._logs(rank, local_rank)
            self.children.start(
                zygote.Job(
                    self.run_dir.path,
                    self.attempt,
                    rank,
                    env,
                    log,
                    spawn=self.spawn,
                    program=self.program,
                    hooks=self.plan.supervision.hooks == "auto",
                    stderr_log=stderr_log,
                )
            )
        self._event(records.Ranks(attempt=self.attempt, pids=[c.pid for c in self.children.started]))
        failed = self._watch(link, self._watch_for_stalls())
        if failed is not None:
            self._say_last_step()
        return failed

    def _say_last_step(self) -> None:
        """The step to which rank 0 of a program came: its hooks say one now and then, and the last when it ends by itself."""
        beat = heartbeat.read_beat(self.run_dir.attempt(self.attempt) / "beat_0")
        if self.program is None or self.node_rank or beat is None:
            return
        said: list[int] = []
        with contextlib.suppress(OSError):  # it must not hide the failure
            said = [one.step for _, one in events.events(self.run_dir.events_path) if isinstance(one, records.Step)]
        if beat.step > (said or [0])[-1]:
            ago_s = time.monotonic() - beat.time_ns / 1e9
            self._event(records.Step(step=beat.step, time=round(time.time() - ago_s, 3)))

    def _watch_for_stalls(self) -> stall.Watch:
        timeout_s = self.plan.supervision.hang_timeout_s
        # A program's beats are not in every place where it works, as those of a recipe's training are.
        activity = Activity(timeout_s) if self.program is not None else None
        folder = self.run_dir.attempt(self.attempt)
        return stall.Watch(folder, timeout_s, activity, is_alone=self.plan.num_nodes == 1)

    def _logs(self, rank: int, local_rank: int) -> tuple[Path, Path | None]:
        """What a rank's standard output goes to, and its standard error where that has a log of its own."""
        if self.program is not None and local_rank in self.program.separate_logs:
            return self.run_dir.stdout_log(self.attempt, rank), self.run_dir.stderr_log(self.attempt, rank)
        return self.run_dir.rank_log(self.attempt, rank), None

    def _watch(self, link: Link, watch: stall.Watch) -> Failure | None:
        """Until every rank of this node has ended; the failure that came first here, or None."""
        tell_at = kill_at = float("inf")
        is_signalled, is_stopping, stalled, oom_kills = False, False, None, failures.oom_kills()
        judge = self._judge
        while self.children.running:
            self.children.listen()
            now = time.monotonic()
            failed = [c for c in self.children.started if judge.has_failed(c)]
            trouble = link.pulse(STALLED if stalled else FAILED if failed else "")
            if self.stop_signal is not None and not is_stopping:
                is_stopping = True
                tell_at, kill_at = now, min(kill_at, now + self.plan.supervision.grace_s)
            elif (failed or trouble == FAILED) and tell_at == float("inf"):
                tell_at = now + (SPEAK_S if all(judge.followed(c) for c in failed) else 0.0)
                kill_at = tell_at + FAILURE_GRACE_S
            elif stalled is None and tell_at == float("inf"):
                at_once = trouble == STALLED
                stalled = watch.look(
                    {c.rank: c.pid for c in self.children.running if c.rank is not None}, at_once=at_once
                )
                if stalled is not None:
                    stalled = stalled.but(node_rank=self.node_rank)
                    if stalled.weight == failure.CAUSE:
                        self._event(records.Hang(what=stalled.what))
                if stalled is not None or at_once:
                    self._ask_for_collectives()
                    tell_at, kill_at, is_signalled = now, now, True
            if now >= tell_at and not is_signalled:
                is_signalled = True
                if all(judge.may_be_of_a_collective(c) for c in failed) and not is_stopping:
                    self._ask_for_collectives()
                # The pid alone: a checkpoint needs the DataLoader workers alive. A program hears the signal that was sent,
                # so that ^C reaches its `except KeyboardInterrupt`.
                self.children.signal(
                    self.stop_signal if self.program and is_stopping and self.stop_signal else signal.SIGTERM
                )
            if now >= kill_at:
                self.children.signal(signal.SIGKILL)
                kill_at = float("inf")
        return stalled or judge.first_failure(failures.oom_kills() - oom_kills)

    def _ask_for_collectives(self) -> None:
        ranks = {c.rank: c.pid for c in self.children.running if c.rank is not None}
        collectives.ask(self.run_dir.attempt(self.attempt), ranks)

    @property
    def _judge(self) -> Judge:
        """Of the present step's processes."""
        return Judge(self.run_dir, self.plan, self.node_rank, self.attempt, self.program, self.children.started)

    def _event(self, event: Event) -> None:
        if self.node_rank == 0:
            events.append_event(self.run_dir.events_path, event)


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
