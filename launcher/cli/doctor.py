"""doctor and explain: this machine before a launch, and the logs after one."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import click

from launcher.accelerators import table as accelerators
from launcher.cli.options import Count, Named, RecipeFile, complete_recipe
from launcher.errors import LaunchError


@click.command(name="doctor")
@click.argument("recipe", required=False, type=RecipeFile(), shell_complete=complete_recipe)
@click.option(
    "--device",
    type=Named(accelerators.TABLE, accelerators.AUTO),
    default="auto",
    help="Check for cards or for CPU [default: auto].",
)
@click.option("--nproc", type=Count(), default="auto", help="Ranks you are going to ask for on this node.")
@click.option(
    "--nnodes", type=click.IntRange(1), help="Nodes of the job [default: from the cluster's environment, else 1]."
)
@click.option(
    "--node-rank", type=click.IntRange(0), help="Rank of this node, from 0 [default: from the cluster's environment]."
)
@click.option(
    "--rdzv-endpoint", metavar="HOST:PORT", help="Host and port of node 0 [default: from the cluster's environment]."
)
@click.option(
    "--nodes",
    "node_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="`doctor --json` of a node; give one each to compare them.",
)
@click.option(
    "--end-leftovers",
    is_flag=True,
    help="First end processes of earlier jobs of yours that hold a card or a port: SIGTERM, then SIGKILL.",
)
@click.option("--json", "as_json", is_flag=True, help="Findings, and the facts that --nodes compares, as JSON.")
def doctor_command(
    recipe: Path | None,
    device: str,
    nproc: int | None,
    nnodes: int | None,
    node_rank: int | None,
    rdzv_endpoint: str | None,
    node_files: tuple[Path, ...],
    end_leftovers: bool,
    as_json: bool,
) -> None:
    """Check this machine: versions, CANN, cards, HCCL, network, disk, memory. Each finding with its fix."""
    from launcher.diagnose.doctor import compare, leftovers, run
    from launcher.show import findings as show_findings

    if node_files and end_leftovers:
        raise LaunchError(
            "--end-leftovers is for this machine, and --nodes compares files", hint="use one of them at a time"
        )
    if node_files:
        has_names = len({path.stem for path in node_files}) == len(node_files)
        findings = compare.compare_nodes(
            {path.stem if has_names else str(path): _node_facts(path) for path in node_files}
        )
        show_findings.findings(findings, None, as_json)
        sys.exit(run.exit_code(findings))
    look = functools.partial(_doctor_context, device, nproc, nnodes, node_rank, rdzv_endpoint, recipe)
    context = look()
    ended = []
    if end_leftovers:
        ended = [leftovers.end(context)]
        context = leftovers.let_go(context, look)
    findings = [*ended, *run.run_checks(context)]
    show_findings.findings(findings, compare.node_facts(context), as_json)
    sys.exit(run.exit_code(findings))


def _doctor_context(
    device: str, nproc: int | None, nnodes: int | None, node_rank: int | None, endpoint: str | None, recipe: Path | None
) -> Any:
    from launcher.accelerators import detect
    from launcher.accelerators.ascend import discover
    from launcher.diagnose.doctor import run
    from launcher.jobs import health
    from launcher.recipe import load

    machine = discover.look(None, os.environ)
    values = _nodes(nnodes, node_rank, endpoint, nproc)
    if recipe is not None:
        loaded = load.load(recipe).spec
        values |= health.doctor_values(loaded, loaded.parallel.precision, loaded.parallel.strategy, loaded.training)
    return run.context(detect.kind(device, machine), found=machine, **values)


def _nodes(count: int | None, rank: int | None, endpoint: str | None, nproc: int | None) -> dict[str, Any]:
    """The job's nodes, as a launch with these options would take them; a first node without a name is allowed."""
    from launcher.clusters import environment
    from launcher.machine.nodes import Nodes

    nodes, problem = Nodes(count or 1, rank or 0, endpoint), None
    if count is None or endpoint is not None:
        try:
            nodes = environment.find(os.environ, count, rank, endpoint, pretend=True).with_nproc_override(nproc)
        except LaunchError as error:
            problem = error
    return {
        "nproc": nproc or nodes.nproc,
        "num_nodes": nodes.count,
        "rdzv_endpoint": nodes.endpoint,
        "is_first_node": nodes.rank == 0,
        "recognised": nodes.source,
        "unreadable": problem,
    }


MAX_FACTS_BYTES = 16 << 20


def _node_facts(path: Path) -> dict[str, Any]:
    from launcher import files

    value = files.read_json(path) if path.is_file() and path.stat().st_size < MAX_FACTS_BYTES else None
    node = value.get("node") if isinstance(value, dict) else None
    if not isinstance(node, dict) or not all(isinstance(node.get(k) or {}, dict) for k in ("versions", "env")):
        raise LaunchError(
            "{path}: not what `ascend-launch doctor --json` writes",
            hint="run it on each node, and save its output",
            path=path,
        )
    return node
