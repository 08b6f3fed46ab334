"""What commands that run a job on this node share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from launcher.cli.options import given

if TYPE_CHECKING:
    from launcher.jobs.inputs import Inputs
    from launcher.jobs.view import View
    from launcher.planning.plan import Plan
    from launcher.rundir.paths import RunDir


def carry_out(inputs: Inputs, plan: Plan, run_dir: Path | None, as_json: bool) -> NoReturn:
    """Launch a recipe's plan, and end with its exit code."""
    from launcher.jobs import launch

    job = None if plan.debug else inputs.cluster.job
    work = launch.Work(inputs.loaded, inputs.cluster, plan, run_dir, job)
    node_rank = inputs.cluster.node_rank
    sys.exit(launch.launch(work, _view(plan, node_rank, as_json), lambda run: continuing_command(plan, run, node_rank)))


def _view(plan: Plan, node_rank: int, as_json: bool) -> View:
    from launcher.show import program, run

    if plan.program is None or plan.debug or as_json:
        return run.view(as_json, node_rank)
    return program.ProgramView((program.Source(node_rank * plan.nproc_per_node),))


def continuing_command(plan: Plan, run: RunDir, node_rank: int) -> str:
    """The command that goes on with this run. Its own recipe holds every override, with links followed."""
    from launcher import again

    weights = {"checkpoint": plan.use.weights} if plan.use else {}
    words = given({"run_dir", "dry_run", "debug"}, weights)
    folder = run.path.parent if node_rank else run.path
    context = click.get_current_context()
    what = context.params["words"] if context.info_name == "program" else [str(run.recipe_path)]
    return again.command([context.info_name or "run", *words, "--run-dir", str(folder), *what])
