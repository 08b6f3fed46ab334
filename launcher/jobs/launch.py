"""The one way of a job on this node: claim its run directory, check, write, start, follow, end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import nested, streams
from launcher.errors import EXIT_JOB_FAILED, EXIT_OK, EXIT_TERMINATED, EXIT_USER, LaunchError
from launcher.jobs import accelerated, afterwards, claim, follow, health
from launcher.machine.cluster import Cluster
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.recipe import program as programs
from launcher.recipe.load import Loaded
from launcher.render import env, files
from launcher.rundir import events, records
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event

if TYPE_CHECKING:
    from launcher.jobs.claim import Claim
    from launcher.jobs.view import View


def user_env() -> dict[str, str]:
    """The environment as the user has it, also inside a command of theirs whose torchrun comes to our agent."""
    user = dict(os.environ)
    nested.leave(user)
    return user


@dataclass
class Job:
    """One node's part of a job, step by step."""

    loaded: Loaded
    cluster: Cluster
    plan: Plan
    run: RunDir
    args: Sequence[str] | None = None
    """The program's own, where the plan hides a secret among them."""
    lock: int | None = None
    """Of the run directory; None where nobody else can know of it."""
    user_env: dict[str, str] = field(default_factory=user_env)
    facts: dict[str, Any] = field(default_factory=dict)
    """What the machine is, once it has been looked at."""

    @property
    def is_program(self) -> bool:
        """Whether ranks run the user's own program, unless they are debugged."""
        return self.plan.program is not None and not self.plan.debug

    def check(self) -> None:
        """Raises LaunchError: what would end the job later."""
        health.require_rows(self.plan)
        self.facts = health.require_health(self.plan, self.cluster, self.run)
        health.require_rank_table(self.plan)
        self.plan = accelerated.environment(self.plan, self.run, self.user_env, self.cluster.node_rank)

    def write(self) -> None:
        """Write every file that the agent and its ranks read."""
        files.write(files.texts(self.loaded, self.plan, self.run, self.user_env, self.cluster.node_rank), self.run)
        events.append_event(self.run.events_path, records.Machine.of(self.facts))

    def show(self, view: View) -> None:
        """What is about to happen, and which of the user's variables ranks do not get."""
        view.plan(self.plan, self.run, self.loaded)
        for row in env.removed(self.plan, self.user_env):
            text = Message(
                "{row}={row_value} is unset for the ranks: {reason}",
                row=row.name,
                row_value=row.value,
                reason=row.reason,
            )
            view.event(records.Note(text=text))

    def agent_env(self) -> dict[str, str]:
        """The environment of the agent, and so of its ranks."""
        variables = env.of_agent(self.plan, self.run.path.resolve(), self.user_env)
        return variables if self.args is None else {**variables, programs.ARGS: json.dumps(self.args)}

    def follow(self, on_event: Callable[[Event], None], on_poll: Callable[[], bool] | None = None) -> Outcome:
        """Start the agent and follow it to its end."""
        argv = files.agent_argv(self.run, self.cluster.node_rank, is_program=self.is_program)
        reads = self.is_program and self.plan.world_size == 1
        return follow.run(argv, self.run, self.agent_env(), on_event, on_poll=on_poll, lock=self.lock, has_stdin=reads)


@dataclass(frozen=True)
class Work:
    """What is to be carried out on this node."""

    loaded: Loaded
    cluster: Cluster
    plan: Plan
    run_dir: Path | None = None
    job: str | None = None
    """Names the run directory for all nodes, where the user has not."""
    args: Sequence[str] | None = None
    """The program's own, where the plan hides a secret among them."""


def launch(work: Work, view: View, again: Callable[[RunDir], str]) -> int:
    """Carry a plan out in its run directory, and show it; the exit code. `again`: the command that goes on with a run, ''
    where it may not be shown.

    A new directory becomes `latest` when its ranks start. One that a user's mistake ended before is removed.

    Raises:
        LaunchError: nothing was started.
    """
    place = claim.of_node(work.loaded, work.plan, work.run_dir, work.job, work.cluster.node_rank)
    job = Job(work.loaded, work.cluster, work.plan, place.run, work.args, place.run.lock())
    try:
        job.check()
    except LaunchError:
        place.give_up()
        raise
    job.write()
    streams.outlive()
    job.show(view)
    if job.plan.debug:
        return follow.foreground(job.run, job.agent_env())
    if job.is_program:  # it may look for its own run directory
        place.begin()
    outcome = _followed(job, place, view)
    return _end(job, place, outcome, view, again)


def _followed(job: Job, place: Claim, view: View) -> Outcome:
    def on_event(event: Event) -> None:
        place.see(event)
        view.event(event)

    output = view.output(job.plan, job.run)
    with view:
        outcome = job.follow(on_event, output)
        if output is not None:
            output.finish()
    return outcome


def _end(job: Job, place: Claim, outcome: Outcome, view: View, again: Callable[[RunDir], str]) -> int:
    run = job.run
    is_nothing = place.is_new and not place.has_begun and outcome.exit_code == EXIT_USER
    continuing = again(run) if afterwards.goes_on(outcome, run) and not is_nothing else ""
    if job.is_program:
        view.end(outcome, run, afterwards.cause_explained(outcome, run), again=continuing)
        is_kept = outcome.exit_code == EXIT_OK or (outcome.exit_code == EXIT_TERMINATED and run.was_preempted)
        return outcome.exit_code if is_kept else EXIT_JOB_FAILED
    has_report = job.plan.recipe.report and job.cluster.node_rank == 0 and not is_nothing
    explained = afterwards.explained(outcome, run)
    view.end(outcome, run, explained, afterwards.write_report(run) if has_report else None, continuing)
    if is_nothing:
        place.give_up()
    return outcome.exit_code
