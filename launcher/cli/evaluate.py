"""`ascend-launch eval`: the metrics of weights, on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from launcher.cli import outputs
from launcher.cli.job import carry_out
from launcher.cli.options import machine_of, machine_options, supervision_of
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
    recipe: Path, overrides: tuple[str, ...], checkpoint: str, run_dir: Path | None, as_json: bool, **given: Any
) -> None:
    """Evaluate the weights P on RECIPE's eval split, on every rank, with the figures of a training's evaluation."""
    from dataclasses import replace

    from launcher.jobs import inputs, trained
    from launcher.planning.plan import Use
    from launcher.rundir import paths

    weights = trained.find(checkpoint, "--checkpoint")
    asked = inputs.gather(recipe, overrides, machine_of(given), supervision_of(given), is_training=False)
    if asked.loaded.spec.data.eval is None:
        raise LaunchError("{recipe}: data.eval is null", hint="name a split: data.eval.split=test", recipe=recipe)
    before = paths.plan_beside(recipe)
    if before is None or before.use is None:  # else it is that of an evaluation, which is to go on
        asked = replace(asked, loaded=replace(asked.loaded, name=f"{asked.loaded.name}-eval"))
    notes = (*asked.loaded.notes, *trained.code_notes(weights, asked.loaded.spec))
    asked = replace(asked, loaded=replace(asked.loaded, notes=notes))
    use = Use(mode="eval", weights=weights.name, trained_by=weights.trained_by())
    asked = replace(asked, options=replace(asked.options, use=use))
    carry_out(asked, asked.plan(), run_dir, as_json)
