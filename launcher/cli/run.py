"""`ascend-launch run`: from a recipe to a running job, or to what one would do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from launcher.cli import hostfile, outputs
from launcher.cli.job import carry_out
from launcher.cli.options import machine_of, machine_options, supervision_of
from launcher.cli.render import show_render
from launcher.errors import LaunchError


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
    **given: Any,
) -> None:
    """Train RECIPE on every rank and leave rank 0's metrics. This is the default command."""
    from launcher.jobs import inputs
    from launcher.rundir import lifecycle

    hosts = hostfile.hosts_of(given)
    if hosts is not None:
        sys.exit(hostfile.run_recipe(recipe, overrides, hosts, run_dir, given, dry_run, debug, as_json))
    machine, supervision = machine_of(given), supervision_of(given)
    asked = inputs.gather(recipe, overrides, machine, supervision, debug=debug, pretend=dry_run)
    plan, cluster = asked.plan(), asked.cluster
    if dry_run:
        named = Path(asked.loaded.spec.output_dir) / plan.name / (cluster.job or "RUN")
        run = lifecycle.for_node(run_dir or named, cluster.node_rank)
        show_render(asked.loaded, plan, run, cluster.node_rank, as_json)
        return
    if debug and cluster.num_nodes > 1:
        raise LaunchError(
            "--debug is one rank in this terminal, and there are {num_nodes} nodes ({nodes_reason})",
            hint="add --nnodes 1",
            num_nodes=cluster.num_nodes,
            nodes_reason=plan.nodes_reason,
        )
    carry_out(asked, plan, run_dir, as_json)
