"""Submit a job to a cluster's queue, and follow it where its files are seen here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launcher import streams
from launcher.clusters import follow
from launcher.clusters.submission import Asked, Queue, Script, Submission, Work
from launcher.clusters.table import Cluster
from launcher.errors import EXIT_INTERRUPTED, EXIT_OK, LaunchError
from launcher.jobs import afterwards
from launcher.jobs.view import QueueView
from launcher.messages import Message
from launcher.rundir.paths import RunDir

ANY_ENDPOINT = "first-node:29400"
"""Stands for the first node while the job is only planned: its nodes are not known before it starts."""


@dataclass(frozen=True)
class Order:
    """A job to be submitted, and what is done beside."""

    cluster: Cluster
    submission: Submission
    work: Work
    asked: Asked
    again: Callable[[RunDir], str]
    """The command that submits a job which goes on with a run, ready to paste; '' where it may not be shown."""
    dry_run: bool = False
    follow: bool = False


def require_script(cann: str | None) -> None:
    """Raises LaunchError where --cann can be no set_env.sh on any node. Whether a node has it, only the node can tell."""
    if cann in (None, "none"):
        return
    path = Path(cann)
    if not path.is_absolute():
        raise LaunchError(
            "--cann {cann!r} is not an absolute path", hint="as in /usr/local/Ascend/cann/set_env.sh", cann=cann
        )
    if path.is_dir():
        raise LaunchError(
            "--cann {cann}: a folder", hint="name the file to source, as in {path}", cann=cann, path=path / "set_env.sh"
        )


def submit(order: Order, view: QueueView) -> int:
    """Write the job's script or manifest, give it to the cluster, and follow it where that is asked for; the exit code.

    Raises:
        LaunchError: the job cannot be written so, or the cluster refuses it.
    """
    warnings = order.submission.warnings(order.work)
    script = order.submission.script(order.work, order.asked)
    if order.follow and order.dry_run:
        raise LaunchError("--follow: --dry-run submits nothing to follow", hint="leave one of them out")
    for name, sentence in (*script.warnings, *((f"--{order.cluster.name}", sentence) for sentence in warnings)):
        view.warning(name, sentence)
    if order.dry_run:
        view.would_submit(script.text, order.work.plan)
        return EXIT_OK
    queue = order.submission.queue
    return _create(order, script, view) if queue is None else _enqueue(order, queue, script, view)


def _create(order: Order, script: Script, view: QueueView) -> int:
    """Where nothing of the run is seen from here."""
    streams.outlive()
    made = order.submission.submit(script, dict(os.environ))
    commands = order.submission.commands(script.name)
    view.created(made.splitlines(), script.name, str(script.folder), script.text, commands)
    return EXIT_OK


def _enqueue(order: Order, queue: Queue, script: Script, view: QueueView) -> int:
    plan = order.work.plan
    folder = RunDir(script.folder)
    if script.is_run:
        folder.claim(plan, order.again(folder))
    folder.create()
    env = dict(os.environ)
    streams.outlive()
    job = order.submission.submit(script, env)
    run = folder if script.is_run else RunDir(script.folder / queue.run_name(job))
    where = Message("{cluster} chooses them when the job starts", cluster=order.cluster.title)
    view.plan(
        plan.model_copy(update={"rdzv_endpoint": None, "nodes_reason": where if plan.num_nodes > 1 else ""}),
        run,
        order.work.loaded,
    )
    output = queue.output(script, job)
    commands = order.submission.commands(job)
    view.submitted(job, str(output), script.text, commands)
    if not order.follow:
        return EXIT_OK
    again = order.again(run)
    try:
        with view:
            outcome = follow.follow(queue, job, run, output, env, view.event, view.job)
    except KeyboardInterrupt:
        view.detached(job, commands)
        return EXIT_INTERRUPTED
    report = afterwards.explained(outcome, run) if run.path.exists() else None
    view.end(outcome, run, report, again=again if afterwards.goes_on(outcome, run) else "")
    return outcome.exit_code
