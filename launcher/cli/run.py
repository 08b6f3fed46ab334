"""run, render and plan: from a recipe to a running job, or to what one would do."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from launcher import streams
from launcher.cli import hostfile, outputs
from launcher.cli.job import (
    _report,
    continuing_command,
    explained,
    goes_on,
    require_health,
    require_rank_table,
    run_directory,
)
from launcher.cli.options import decide, machine_options
from launcher.cli.render import show_render
from launcher.errors import EXIT_USER, LaunchError
from launcher.messages import Message

if TYPE_CHECKING:
    from launcher.machine.cluster import Cluster
    from launcher.planning.plan import Plan
    from launcher.recipe.load import Loaded
    from launcher.rundir.records import Event


@click.command(name="run")
@machine_options
@click.option(
    "--run-dir",
    type=outputs.Target(file_okay=False),
    help="Directory of this run [default: a new one below output_dir].",
)
@click.option(
    "--dry-run", is_flag=True, help="Show the plan, the files and the commands; start nothing, write nothing."
)
@click.option(
    "--debug", is_flag=True, help="One rank in this terminal, a few steps, synchronous NPU; breakpoints work."
)
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
@hostfile.options
def run_command(
    recipe: Path,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    dry_run: bool,
    debug: bool,
    as_json: bool,
    **machine: Any,
) -> None:
    """Train RECIPE on every rank and leave rank 0's metrics. This is the default command."""
    from launcher.rundir import lifecycle

    far = {name: machine.pop(name) for name in hostfile.OWN}
    if far["hostfile"] is not None:
        sys.exit(hostfile.launch(recipe, overrides, run_dir, dry_run, debug, as_json, machine, far))
    hostfile.refuse_alone(far)
    loaded, cluster, plan = decide(recipe, overrides, machine, debug=debug, pretend=dry_run)
    if dry_run:
        named = Path(loaded.spec.output_dir) / plan.name / (cluster.job or "RUN")
        show_render(loaded, plan, lifecycle.for_node(run_dir or named, cluster.node_rank), cluster.node_rank, as_json)
        return
    if debug and cluster.num_nodes > 1:
        raise LaunchError(
            "--debug is one rank in this terminal, and there are {num_nodes} nodes ({nodes_reason})",
            hint="add --nnodes 1",
            num_nodes=cluster.num_nodes,
            nodes_reason=plan.nodes_reason,
        )
    launch(loaded, cluster, plan, run_dir, as_json)


def launch(loaded: Loaded, cluster: Cluster, plan: Plan, run_dir: Path | None, as_json: bool) -> NoReturn:
    """Carry a plan out in its run directory, show it, and end with its exit code.

    A new directory becomes `latest` when its ranks start. One that a user's mistake ended before is removed: what was wrong
    has been said, and there is nothing else in it.
    """
    if plan.program is not None and not plan.debug:
        from launcher.cli import program
        from launcher.show.program import Source

        job = cluster.job
        shown = (Source(cluster.node_rank * plan.nproc_per_node),)
        program.launch(loaded, cluster, plan, plan.program, run_dir=run_dir, job=job, as_json=as_json, shown=shown)
    from launcher.jobs import follow
    from launcher.render import env, files
    from launcher.rundir import events, lifecycle, records
    from launcher.show import run as show_run

    job = None if plan.debug else cluster.job
    run, is_new = run_directory(run_dir, loaded, plan, job, cluster.node_rank), run_dir is None and job is None
    lock = run.lock()
    try:
        machine_facts = require_health(plan, cluster, run)
        require_rank_table(plan)
    except LaunchError:
        if is_new:
            lifecycle.discard(run)
        raise
    user_env = dict(os.environ)
    files.write(files.texts(loaded, plan, run, user_env, cluster.node_rank), run)
    child_env = env.of_agent(plan, run.path.resolve(), user_env)
    events.append_event(run.events_path, records.Machine.of(machine_facts))
    streams.outlive()
    view = show_run.view(as_json, cluster.node_rank)
    view.plan(plan, run, loaded)
    for row in env.removed(plan, user_env):
        view.event(
            records.Note(
                text=Message(
                    "{row}={row_value} is unset for the ranks: {reason}",
                    row=row.name,
                    row_value=row.value,
                    reason=row.reason,
                )
            )
        )
    if plan.debug:
        sys.exit(follow.foreground(run, child_env))
    has_ranks = False

    def on_event(event: Event) -> None:
        nonlocal has_ranks
        if isinstance(event, records.Ranks) and not has_ranks:
            has_ranks = True
            if is_new:
                lifecycle.point_latest(run.path)
        view.event(event)

    with view:
        outcome = follow.run(files.agent_argv(run, cluster.node_rank), run, child_env, on_event, lock=lock)
    is_nothing = is_new and not has_ranks and outcome.exit_code == EXIT_USER
    has_report = plan.recipe.report and cluster.node_rank == 0 and not is_nothing
    continuing = continuing_command(plan, run, cluster.node_rank) if goes_on(outcome, run) and not is_nothing else ""
    view.end(outcome, run, explained(outcome, run), _report(run) if has_report else None, continuing)
    if is_nothing:
        lifecycle.discard(run)
    sys.exit(outcome.exit_code)
