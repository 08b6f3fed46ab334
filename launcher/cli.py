"""The command line. Each command is load → call → show; imports stand in the commands, so that --help costs nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher import __version__
from launcher.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_USER, LaunchError

if TYPE_CHECKING:
    from launcher.cluster.model import Cluster
    from launcher.plan import Plan
    from launcher.spec import Loaded

DEFAULT_COMMAND = "run"


class _Group(click.Group):
    """`ascend-launch [OPTIONS] RECIPE` without a command's name is `ascend-launch run …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if args and args[0] not in own and args[0] not in self.commands:
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] RECIPE [KEY=VALUE]...")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="       ")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ascend-launch")
def cli() -> None:
    """Fine-tune a model on every Ascend NPU of a node, or on CPU ranks, from one recipe.

    \b
      ascend-launch --nproc 8 recipes/yelp.yaml
      ascend-launch --device cpu --nproc 2 recipes/tiny-cpu.yaml training.num_train_epochs=1
      ascend-launch --dry-run --nproc 8 --device npu recipes/yelp.yaml
    """


class _Count(click.ParamType):
    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value in (None, "auto"):
            return None
        if isinstance(value, int) or (str(value).isdigit() and int(value) > 0):
            return int(value)
        raise click.BadParameter(f"{value!r} is neither a number of ranks nor auto", ctx, param)


def _machine_options(command: Any) -> Any:
    options = [
        click.argument("recipe", type=click.Path(path_type=Path)),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
        click.option("--nproc", type=_Count(), default="auto", envvar="ASCEND_LAUNCH_NPROC", help="Ranks on this node [auto: one a card]."),
        click.option("--device", type=click.Choice(["auto", "npu", "cpu"]), default="auto", envvar="ASCEND_LAUNCH_DEVICE", help="Where ranks compute [auto: npu where there is one]."),
        click.option("--nnodes", type=click.IntRange(1), default=1, help="Nodes of the job [1]."),
        click.option("--node-rank", type=click.IntRange(0), default=0, help="Which of them this is, from 0."),
        click.option("--rdzv-endpoint", metavar="HOST:PORT", help="Node 0, the same words on every node."),
        click.option("--max-restarts", type=click.IntRange(0), default=0, help="Start failed ranks again so often, from the newest whole checkpoint [0]."),
        click.option("--hang-timeout", type=click.FloatRange(0), default=1800.0, metavar="SECONDS", help="End a job that stands still for so long; 0 never [1800]."),
        click.option("--grace", type=click.FloatRange(0), default=60.0, metavar="SECONDS", help="Time to save between a stop signal and a kill [60]."),
        click.option("--start-method", type=click.Choice(["auto", "fork", "spawn"]), default="auto", help="How ranks start [auto: fork where a trial works]."),
        click.option("--chip", metavar="NAME", help="With --dry-run and render: the chip to plan for [910B3]."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(name="run")
@_machine_options
@click.option("--run-dir", type=click.Path(path_type=Path), help="Directory of this run [a new one below output_dir].")
@click.option(
    "--dry-run", is_flag=True, help="Show the plan, the files and the commands; start nothing, write nothing."
)
@click.option(
    "--debug", is_flag=True, help="One rank in this terminal, a few steps, synchronous NPU; breakpoints work."
)
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
def run_command(recipe: Path, overrides: tuple[str, ...], run_dir: Path | None, dry_run: bool, debug: bool, as_json: bool, **machine: Any) -> None:  # fmt: skip
    """Train RECIPE on every rank and leave rank 0's metrics. This is the default command."""
    from launcher import rundir, show, supervise
    from launcher.render import env, files
    from launcher.rundir import RunDir

    loaded, cluster, plan = _plan(recipe, overrides, machine, debug=debug, pretend=dry_run)
    if dry_run:
        placeholder = run_dir or Path(loaded.spec.output_dir) / plan.name / "RUN"
        _show_render(loaded, plan, RunDir(placeholder), cluster.node_rank, as_json)
        return
    if cluster.num_nodes > 1 and run_dir is None:
        raise LaunchError(
            f"--nnodes {cluster.num_nodes} needs --run-dir",
            hint="give every node the same --run-dir DIR; each node but the first keeps its files in a folder of its own there",
        )
    if run_dir is None:
        run = rundir.new(Path(loaded.spec.output_dir), plan.name)
    else:
        run = RunDir(run_dir / f"node_{cluster.node_rank}" if cluster.node_rank else run_dir)
        run.create()
        run.claim(plan)
    user_env = dict(os.environ)
    files.write(files.texts(loaded, plan, run, user_env, cluster.node_rank), run)
    rows = env.variables(plan, run.path.resolve(), user_env)
    child_env = user_env | {row.name: row.value for row in rows}
    view = show.view(as_json)
    view.plan(plan, run, loaded)
    if debug:
        sys.exit(supervise.foreground(run, child_env))
    with view:
        outcome = supervise.run(files.agent_argv(run, cluster.node_rank), run, child_env, view.event)
    view.end(outcome, run)
    sys.exit(outcome.exit_code)


@cli.command(name="render")
@_machine_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write the files here; else show them.")
@click.option("--debug", is_flag=True, help="As a --debug launch would be.")
@click.option("--json", "as_json", is_flag=True, help="The plan and every file as one JSON object.")
def render_command(recipe: Path, overrides: tuple[str, ...], out: Path | None, debug: bool, as_json: bool, **machine: Any) -> None:  # fmt: skip
    """Write the files a launch of RECIPE uses: plan, accelerate YAML, DeepSpeed JSON, environment."""
    from launcher import show
    from launcher.render import files
    from launcher.rundir import RunDir

    loaded, cluster, plan = _plan(recipe, overrides, machine, debug=debug, pretend=True)
    run = RunDir(out or Path(loaded.spec.output_dir) / plan.name / "RUN")
    if out is None:
        _show_render(loaded, plan, run, cluster.node_rank, as_json)
        return
    run.create()
    texts = files.texts(loaded, plan, run, dict(os.environ), cluster.node_rank)
    files.write(texts, run)
    show.written(run, texts, files.commands(plan, run, cluster.node_rank), as_json)


@cli.group(name="recipes", invoke_without_command=True)
@click.pass_context
def recipes_group(ctx: click.Context) -> None:
    """List the shipped recipes, show one, or copy one to start your own."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(recipes_list, as_json=False)


@recipes_group.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Names and paths as JSON.")
def recipes_list(as_json: bool) -> None:
    """List the shipped recipes."""
    from launcher import assets, show

    show.recipes(assets.recipes(), as_json)


@recipes_group.command(name="show")
@click.argument("name")
def recipes_show(name: str) -> None:
    """Print the shipped recipe NAME."""
    click.echo(_shipped(name).read_text(encoding="utf-8"), nl=False)


@recipes_group.command(name="copy")
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path), default=Path())
def recipes_copy(name: str, target: Path) -> None:
    """Copy the shipped recipe NAME to TARGET, a file or a folder [.]; nothing is overwritten."""
    source = _shipped(name)
    target = target / source.name if target.is_dir() else target
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise LaunchError(f"{target}: exists already", hint="name another TARGET") from None
    except OSError as error:
        raise LaunchError(f"{target}: cannot be written: {error.strerror}", hint="name a writable TARGET") from None
    click.echo(f"{target}")


def _shipped(name: str) -> Path:
    import difflib

    from launcher import assets

    there = {path.stem: path for path in assets.recipes()}
    found = there.get(name.removesuffix(".yaml"))
    if found is None:
        close = difflib.get_close_matches(name, there, n=1)
        raise LaunchError(
            f"no shipped recipe {name!r}", hint=f"did you mean {close[0]}?" if close else f"one of {', '.join(there)}"
        )
    return found


def _plan(recipe: Path, overrides: tuple[str, ...], machine: dict[str, Any], *, debug: bool, pretend: bool) -> tuple[Loaded, Cluster, Plan]:  # fmt: skip
    """Load, detect, decide. `pretend`: plan for the cards asked for, whatever this machine has."""
    from launcher import assets, plan, spec
    from launcher.cluster import detect

    loaded = spec.load(recipe, overrides)
    nodes = detect.Nodes(machine["nnodes"], machine["node_rank"], machine["rdzv_endpoint"])
    device, nproc, chip = machine["device"], machine["nproc"], machine["chip"]
    if chip and not pretend:
        raise LaunchError("--chip is for --dry-run and render", hint="a launch asks the cards themselves")
    if pretend and (chip or device == "npu"):
        cluster = _real_cards(detect, nodes, nproc) if not chip else None
        cluster = cluster or detect.assumed(1 if debug else nproc or 8, nodes, chip or detect.ASSUMED_CHIP)
    else:
        cluster = detect.here(device, os.environ, nodes)
    model = loaded.spec.model
    config = assets.model_config(model.name, model.revision) if model.hub == "huggingface" else None
    supervision = plan.Supervision(
        max_restarts=machine["max_restarts"],
        hang_timeout_s=machine["hang_timeout"],
        grace_s=machine["grace"],
        start_method=machine["start_method"],
    )
    options = plan.Options(nproc=nproc, debug=debug, supervision=supervision)
    return loaded, cluster, plan.make(loaded, cluster, options, config)


def _real_cards(detect: Any, nodes: Any, nproc: int | None) -> Cluster | None:
    try:
        cluster: Cluster = detect.here("npu", os.environ, nodes)
    except LaunchError:
        return None
    return cluster if nproc is None or nproc <= len(cluster.devices) else None


def _show_render(loaded: Loaded, plan: Plan, run: Any, node_rank: int, as_json: bool) -> None:
    from launcher import show
    from launcher.render import env, files

    user_env = dict(os.environ)
    texts = files.texts(loaded, plan, run, user_env, node_rank)
    rows = env.variables(plan, run.path.resolve(), user_env)
    show.dry_run(plan, loaded, run, texts, rows, files.commands(plan, run, node_rank), as_json)


def main() -> None:
    """The console script: every ending has its exit code, and only a bug of ours shows a traceback (in a file)."""
    try:
        cli.main(standalone_mode=False)
    except LaunchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(EXIT_USER)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # `ascend-launch … | head` is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        click.echo(_crash_log(error), err=True)
        sys.exit(EXIT_BUG)


def _crash_log(error: Exception) -> str:
    """Write the traceback where a user can paste it from; the words that say so."""
    import platform
    import tempfile
    import traceback

    text = (
        f"### version\n\n```\nascend-launch {__version__}, Python {platform.python_version()}, {platform.platform()}\n```\n"
        f"\n### traceback\n\n```\n{''.join(traceback.format_exception(error))}```\n"
    )
    with tempfile.NamedTemporaryFile(
        "w", prefix="ascend-launch-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        log.write(text)
    return (
        f"error: {type(error).__name__}: {error}\n  this is a bug of ascend-launch's; please report it with {log.name}"
    )


if __name__ == "__main__":
    main()
