"""`ascend-launch export`: trained weights as a folder that other programs load."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from launcher.cli import outputs
from launcher.cli.options import RecipeFile, complete_recipe
from launcher.errors import LaunchError
from launcher.messages import Message

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Bytes(click.ParamType):
    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(value))
        unit = UNITS.get(match[2].upper()) if match else None
        if match is None or unit is None or float(match[1]) * unit < 1:
            raise click.BadParameter(Message("{value!r} is not a size such as 5GB or 500MB", value=value), ctx, param)
        return int(float(match[1]) * unit)


@click.command(name="export")
@click.argument("run", metavar="RUN", type=outputs.Name())
@click.option(
    "--checkpoint",
    "step",
    type=click.IntRange(1),
    metavar="N",
    help="The step of a checkpoint [default: the final model, else the newest whole one].",
)
@click.option(
    "--out", metavar="FOLDER", type=outputs.Target(), help="The folder to make [default: RUN/export, or RUN/export-N]."
)
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "fp16", "fp32"]),
    help="Precision that the weights are written in [default: as they were saved].",
)
@click.option(
    "--max-shard-size",
    type=Bytes(),
    default="5GB",
    help="Largest size of a file; a larger tensor has a file of its own [default: 5GB].",
)
@click.option("--adapter-only", is_flag=True, help="Export the LoRA adapter alone, not merged into its model.")
@click.option(
    "--recipe",
    type=RecipeFile(),
    shell_complete=complete_recipe,
    help="The recipe of the weights, where no file beside them names it.",
)
@click.option("--json", "as_json", is_flag=True, help="What was written, as one JSON object.")
def export_command(
    run: str,
    step: int | None,
    out: Path | None,
    dtype: str | None,
    max_shard_size: int,
    adapter_only: bool,
    recipe: Path | None,
    as_json: bool,
) -> None:
    """Write the weights of RUN as one Hugging Face folder: a run directory, a checkpoint or an adapter, of any strategy."""
    from launcher.jobs import health, labels, tool, trained
    from launcher.recipe import load
    from launcher.show import results

    weights = trained.find(run, "")
    is_run = weights.run is not None and str(weights.run.path) == weights.name
    if step is not None and not is_run:
        raise LaunchError(
            "--checkpoint {step}: {run} is not a run directory",
            hint="name the run, or the checkpoint's own folder",
            step=step,
            run=run,
        )
    if not is_run and out is None:
        raise LaunchError(
            "{run}: is not a run directory, so the export has no place of its own",
            hint="say where to: --out FOLDER",
            run=run,
        )
    loaded = labels.named(load.load(recipe)).spec if recipe else trained.recipe_of(weights)
    target = out or Path(weights.name) / ("export" if step is None else f"export-{step}")
    made = weights.run.plan() if weights.run else None
    request = {
        "weights": weights.name,
        "out": str(Path(os.path.abspath(target))),  # noqa: PTH100  # a link that stands there is to be refused
        "checkpoint": step,
        "dtype": dtype,
        "max_shard_bytes": max_shard_size,
        "adapter_only": adapter_only,
        "recipe": loaded.model_dump(mode="json"),
        "strategy": made.strategy if made else weights.trained_by(),
        "precision": made.precision if made else None,
    }
    health.require_packages(("torch", "transformers"))
    results.exported(tool.tool("launcher.worker.weights.export", request), as_json)
