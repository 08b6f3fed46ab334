"""submit: from a recipe to a job in a cluster's queue."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from launcher.accelerators import table as accelerators
from launcher.cli import cluster_options
from launcher.cli.cluster_options import COMMANDLINE, QueueCommand
from launcher.cli.options import (
    Count,
    Named,
    given,
    machine_of,
    recipe_arguments,
    supervision_of,
    supervision_options,
    with_options,
)

if TYPE_CHECKING:
    from launcher.clusters.submission import Submission, Work
    from launcher.clusters.table import Cluster
    from launcher.jobs.view import QueueView
    from launcher.planning.plan import Plan
    from launcher.recipe.load import Loaded
    from launcher.rundir.paths import RunDir


SUPERVISION = ("max_restarts", "hang_timeout", "grace", "join_timeout", "start_method")


class _Submit(QueueCommand):
    """Lists the options by the cluster that they are for."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] RECIPE [KEY=VALUE]...")
        formatter.write_usage(ctx.command_path, "[OPTIONS] [-m] PROGRAM [ARGS]...", prefix="       ")
        formatter.write_usage(ctx.command_path, "[OPTIONS] -- COMMAND [ARGS]...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups = cluster_options.headings()
        options = {param.name or "": param for param in self.get_params(ctx) if isinstance(param, click.Option)}
        taken = {key for helps in groups.values() for key in helps}
        shown = {"Options": {key: option.help or "" for key, option in options.items() if key not in taken}, **groups}
        for title, helps in shown.items():
            records = [
                (options[key].get_help_record(ctx), options[key].help or "", text) for key, text in helps.items()
            ]
            with formatter.section(title):
                formatter.write_dl([(r[0], r[1].replace(any_help, text)) for r, any_help, text in records if r])


MACHINE_OPTIONS = [
    click.option("--nodes", type=click.IntRange(1), default=1, help="Nodes of the job [default: 1]."),
    click.option(
        "--nproc",
        type=Count(),
        default="auto",
        help="Ranks on each node [default: auto, 8 on npu, 1 on cpu].",
    ),
    click.option(
        "--device",
        type=Named(accelerators.TABLE),
        default=accelerators.ASSUMED,
        help="Where ranks compute [default: npu].",
    ),
    click.option("--chip", metavar="NAME", help="The chip to plan for [default: 910B3]."),
    click.option(
        "--hbm",
        type=click.IntRange(1),
        metavar="GB",
        help="Memory of a card in GB, with plan, render and --dry-run [default: the chip's].",
    ),
]
JOB_OPTIONS = [
    click.option("--job-name", metavar="NAME", help="The job's name [default: the recipe's]."),
    click.option(
        "--run-dir",
        type=click.Path(path_type=Path),
        help="Where the run is kept, as the nodes see it [default: by the job's number or name].",
    ),
    click.option(
        "--cann",
        metavar="FILE",
        help="CANN's set_env.sh, to be sourced on the nodes; none for none [default: Slurm: the usual places; Kubernetes: none].",
    ),
    click.option("--dry-run", is_flag=True, help="Print what would be submitted; submit nothing, write nothing."),
    click.option("--json", "as_json", is_flag=True, help="What was submitted, and events, as JSON lines."),
]


def job_options(command: Any) -> Any:
    """The options of a job in a queue, whatever it runs."""
    command = with_options([*JOB_OPTIONS[:-1], *cluster_options.own(), JOB_OPTIONS[-1]], command)
    return with_options([*cluster_options.targets(), *MACHINE_OPTIONS], supervision_options(command))


@click.command(name="submit", cls=_Submit)
@recipe_arguments
@job_options
@click.pass_context
def submit_command(ctx: click.Context, recipe: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Check RECIPE, render it as a job of Slurm or Kubernetes, and submit it; or your own program, or any command.

    \b
      ascend-launch submit --slurm --nodes 2 --npus 8 recipes/yelp.yaml
      ascend-launch submit --slurm --nodes 2 train.py --lr 1e-4
      ascend-launch submit --kubernetes --image IMAGE --mount code:/code -m my.trainer
      ascend-launch submit --slurm --nodes 2 -- bash train.sh

    A program's options are those of `ascend-launch program`, before it. A command is run once on each node.
    """
    from dataclasses import replace

    from launcher.jobs import health, inputs
    from launcher.jobs.submit import ANY_ENDPOINT
    from launcher.show import run as show_run

    cluster, submission = target_of(ctx)
    machine = replace(
        machine_of(options),
        nnodes=options["nodes"],
        node_rank=0,
        rdzv_endpoint=ANY_ENDPOINT if options["nodes"] > 1 else None,
    )
    supervision = supervision_of(options)
    asked = inputs.gather(
        recipe, overrides, machine, supervision, pretend=True, elsewhere=True, is_theirs=submission.is_theirs
    )
    overrides = (*overrides, *asked.loaded.pins)
    plan = asked.plan()
    health.require_rows(plan, elsewhere=True)
    work = _recipe_work(ctx, cluster, asked.loaded, plan, recipe, overrides)
    view = show_run.view(options["as_json"])
    hand_over(ctx, cluster, submission, work, view, lambda run: _again(run, recipe, overrides))


def _recipe_work(
    ctx: click.Context, cluster: Cluster, loaded: Loaded, plan: Plan, recipe: Path, overrides: tuple[str, ...]
) -> Work:
    from launcher.clusters.submission import Work

    script = loaded.spec.script
    return Work(
        plan=plan,
        loaded=loaded,
        command="run",
        words=["--", str(recipe.absolute()), *overrides],
        options=supervision_words(ctx, cluster, plan),
        recipe=recipe,
        script=Path(plan.recipe_dir) / script if script else None,
    )


def supervision_words(ctx: click.Context, cluster: Cluster, plan: Plan) -> list[str]:
    """The options of supervision that differ from their defaults, as every node gets them."""
    values = dict(ctx.params)
    is_given = ctx.get_parameter_source("join_timeout") is COMMANDLINE
    if plan.num_nodes > 1 and cluster.join_timeout_s is not None and not is_given:
        values["join_timeout"] = cluster.join_timeout_s
    return [
        word
        for param in ctx.command.params
        if param.name in SUPERVISION and values[param.name] != param.default
        for word in (param.opts[0], str(values[param.name]))
    ]


def target_of(ctx: click.Context) -> tuple[Cluster, Submission]:
    """The cluster that the options name, and what they ask of it.

    Raises:
        LaunchError: none or several, an option for another one, a value that cannot be meant, or a --cann that can be no
            file there.
    """
    from launcher.jobs import submit

    cluster = cluster_options.chosen(ctx)
    submit.require_script(ctx.params["cann"])
    return cluster, cluster.submission(cluster_options.values(ctx, cluster))


def hand_over(
    ctx: click.Context,
    cluster: Cluster,
    submission: Submission,
    work: Work,
    view: QueueView,
    again: Callable[[RunDir], str],
) -> NoReturn:
    """Submit a job, and end with its exit code, or with 0 where it is not followed."""
    from launcher.clusters.submission import Asked
    from launcher.jobs import submit

    options = ctx.params
    asked = Asked(options["job_name"], options["run_dir"], "" if options["cann"] == "none" else options["cann"])
    order = submit.Order(
        cluster, submission, work, asked, again, dry_run=options["dry_run"], follow=options.get("follow", False)
    )
    sys.exit(submit.submit(order, view))


def _again(run: RunDir, recipe: Path, overrides: tuple[str, ...]) -> str:
    """The command that submits a job which goes on with a run: by its own recipe, once it has one."""
    from launcher import again

    words = [str(run.recipe_path)] if run.recipe_path.exists() else [str(recipe), *overrides]
    return again.command(["submit", *given({"run_dir", "dry_run"}), "--run-dir", str(run.path), *words])
