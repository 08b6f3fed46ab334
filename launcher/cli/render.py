"""`ascend-launch render`: the files of a launch, without the launch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.cli import outputs
from launcher.cli.options import machine_of, machine_options, supervision_of
from launcher.errors import LaunchError

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.load import Loaded
    from launcher.rundir.paths import RunDir


@click.command(name="render")
@machine_options
@click.option(
    "--out",
    metavar="FOLDER",
    type=outputs.Target(file_okay=False),
    help="Folder to write the files into [default: show them].",
)
@outputs.force_option
@click.option("--debug", is_flag=True, help="Write what a --debug launch would use.")
@click.option("--json", "as_json", is_flag=True, help="The plan and every file as one JSON object.")
def render_command(
    recipe: Path, overrides: tuple[str, ...], out: Path | None, force: bool, debug: bool, as_json: bool, **given: Any
) -> None:
    """Write the files a launch of RECIPE uses: plan, accelerate YAML, DeepSpeed JSON, environment."""
    from launcher.jobs import inputs
    from launcher.render import files
    from launcher.rundir.paths import RunDir
    from launcher.show.plan import written

    asked = inputs.gather(recipe, overrides, machine_of(given), supervision_of(given), debug=debug, pretend=True)
    loaded, cluster, plan = asked.loaded, asked.cluster, asked.plan()
    run = RunDir(out or Path(loaded.spec.output_dir) / plan.name / "RUN")
    if out is None:
        show_render(loaded, plan, run, cluster.node_rank, as_json)
        return
    texts = files.texts(loaded, plan, run, dict(os.environ), cluster.node_rank)
    _require_room(run, texts, force=force)
    run.create()
    run.claim(plan)  # what another run's directory says must stay true
    files.write(texts, run)
    written(run, texts, files.commands(plan, run, cluster.node_rank), as_json)


def _require_room(run: RunDir, texts: dict[str, str], *, force: bool) -> None:
    if run.metrics_path.exists():
        raise LaunchError(
            "{path}: is the directory of a finished run", hint="name another folder with --out", path=run.path
        )
    existing = [name for name in texts if (run.path / name).exists()]
    if existing and not force:
        raise LaunchError(
            "{path}: holds {place} already",
            hint="name another folder with --out, or add --force to overwrite them",
            path=run.path,
            place=", ".join(existing),
        )


def show_render(loaded: Loaded, plan: Plan, run: RunDir, node_rank: int, as_json: bool) -> None:
    from launcher.render import env, files
    from launcher.show import plan as plans

    user_env = dict(os.environ)
    texts = files.texts(loaded, plan, run, user_env, node_rank)
    rows = env.variables(plan, run.path.resolve(), user_env)
    unset = env.removed(plan, user_env)
    plans.dry_run(plan, loaded, run, texts, rows, unset, files.commands(plan, run, node_rank), as_json)
