"""`ascend-launch eval`: the metrics of weights, on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from launcher.cli import outputs
from launcher.cli.options import inputs, machine_options
from launcher.cli.run import launch
from launcher.errors import LaunchError


@click.command(name="eval")
@machine_options
@click.option(
    "--checkpoint",
    type=outputs.Name(),
    required=True,
    metavar="P",
    help="A run directory, a checkpoint, a model or adapter folder, or a hub id.",
)
@click.option(
    "--run-dir",
    type=outputs.Target(file_okay=False),
    help="Directory of this evaluation [default: a new one below output_dir].",
)
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
def eval_command(
    recipe: Path, overrides: tuple[str, ...], checkpoint: str, run_dir: Path | None, as_json: bool, **machine: Any
) -> None:
    """Evaluate the weights P on RECIPE's eval split, on every rank, with the figures of a training's evaluation."""
    from dataclasses import replace

    from launcher.jobs import trained
    from launcher.planning import decide, plan
    from launcher.rundir import paths

    weights = trained.find(checkpoint, "--checkpoint")
    loaded, cluster, options, config = inputs(recipe, overrides, machine, debug=False, pretend=False, is_training=False)
    if loaded.spec.data.eval is None:
        raise LaunchError("{recipe}: data.eval is null", hint="name a split: data.eval.split=test", recipe=recipe)
    before = paths.plan_beside(recipe)
    if before is None or before.use is None:  # else it is that of an evaluation, which is to go on
        loaded = replace(loaded, name=f"{loaded.name}-eval")
    use = plan.Use(mode="eval", weights=weights.name, trained_by=weights.trained_by())
    made = decide.make(loaded, cluster, replace(options, use=use), config)
    launch(loaded, cluster, made, run_dir, as_json)
