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
    from launcher.explain import Report
    from launcher.plan import Options, Plan
    from launcher.rundir import RunDir
    from launcher.spec import Loaded
    from launcher.supervise import Outcome

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
        click.option("--join-timeout", type=click.FloatRange(0), default=600.0, metavar="SECONDS", help="Time for all nodes to come [600]."),
        click.option("--start-method", type=click.Choice(["auto", "fork", "spawn"]), default="auto", help="How ranks start [auto: fork where a trial works]."),
        click.option("--chip", metavar="NAME", help="With plan, render and --dry-run: the chip to plan for [910B3]."),
        click.option("--hbm", type=click.IntRange(1), metavar="GB", help="Likewise: the memory of a card [the chip's]."),
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
    _require_health(plan, cluster)
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
    view.end(outcome, run, _explained(outcome, run))
    sys.exit(outcome.exit_code)


def _explained(outcome: Outcome, run: RunDir) -> Report | None:
    """What the logs of a failed job tell beyond its traceback; kept in failure.json too."""
    from launcher import explain, rundir

    failure = outcome.failure
    # A stall and a lost node are explained already; the logs would only tell of those who waited.
    if failure is None or failure.get("exit_code") == EXIT_USER or failure.get("type") in ("Stalled", "NodeLost"):
        return None
    report = explain.explain_path(run.path, explain.language())
    if report.verdict is None or report.verdict.id == explain.PYTHON.id:
        return None
    if run.failure_path.exists():
        rundir.write_json(run.failure_path, {**failure, "explanation": report.verdict.to_json()})
    return report


def _require_health(plan: Plan, cluster: Cluster) -> None:
    """The doctor's cheap checks, before anything is started.

    Raises:
        LaunchError: a finding that would end the job later, with its fix.
    """
    from launcher import doctor
    from launcher.cluster import npu

    recipe = plan.recipe
    context = doctor.context(
        plan.device,
        found=npu.Found(cluster.node_devices),
        nproc=plan.nproc_per_node,
        num_nodes=plan.num_nodes,
        rdzv_endpoint=plan.rdzv_endpoint,
        is_first_node=cluster.node_rank == 0,
        precision=plan.precision,
        strategy=plan.strategy,
        output_dir=Path(recipe.output_dir),
        model_name=recipe.model.name,
        hub=recipe.model.hub,
    )
    failed = [f for f in doctor.run_checks(context, only_cheap=True) if f.ok == "fail"]
    if failed:
        what = "\n".join(f"{f.name}: {f.what}" for f in failed)
        raise LaunchError(what, hint="\n       ".join(dict.fromkeys(f.fix for f in failed if f.fix)))


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
    run.claim(plan)  # what a finished or another run's directory says must stay true
    texts = files.texts(loaded, plan, run, dict(os.environ), cluster.node_rank)
    files.write(texts, run)
    show.written(run, texts, files.commands(plan, run, cluster.node_rank), as_json)


@cli.command(name="plan")
@_machine_options
@click.option("--json", "as_json", is_flag=True, help="The plan and every strategy's memory as one JSON object.")
def plan_command(recipe: Path, overrides: tuple[str, ...], as_json: bool, **machine: Any) -> None:
    """Show what RECIPE would do on these or other cards: every strategy's memory, what fits, what is taken and why."""
    from launcher import plan, show

    device = machine["device"]
    machine["device"] = "npu" if device == "auto" and (machine["chip"] or machine["hbm"]) else device
    loaded, cluster, options, config = _inputs(recipe, overrides, machine, debug=False, pretend=True)
    rows = plan.memory_rows(loaded, cluster, options, config)
    if not as_json:
        show.memory(rows)  # before `make` refuses what does not fit: the table shows by how much
    show.planned(plan.make(loaded, cluster, options, config), loaded, rows, as_json)


@cli.command(name="doctor")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option(
    "--device", type=click.Choice(["auto", "npu", "cpu"]), default="auto", help="Check for cards or for CPU [auto]."
)
@click.option("--nproc", type=_Count(), default="auto", help="Ranks you are going to ask for on this node.")
@click.option("--nnodes", type=click.IntRange(1), default=1, help="Nodes of the job [1].")
@click.option("--node-rank", type=click.IntRange(0), default=0, help="Which of them this is, from 0.")
@click.option("--rdzv-endpoint", metavar="HOST:PORT", help="Where the nodes will meet.")
@click.option("--nodes", "node_files", multiple=True, type=click.Path(path_type=Path), help="`doctor --json` of a node; give one each to compare them.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Findings, and the facts that --nodes compares, as JSON.")
def doctor_command(recipe: Path | None, device: str, nproc: int | None, nnodes: int, node_rank: int, rdzv_endpoint: str | None, node_files: tuple[Path, ...], as_json: bool) -> None:  # fmt: skip
    """Check this machine: versions, CANN, cards, HCCL, network, disk, memory. Each finding with its fix."""
    from launcher import doctor, show

    if node_files:
        findings = doctor.compare_nodes({path.stem: _node_facts(path) for path in node_files})
        show.findings(findings, None, as_json)
        sys.exit(doctor.exit_code(findings))
    context = _doctor_context(device, nproc, nnodes, node_rank, rdzv_endpoint, recipe)
    findings = doctor.run_checks(context)
    show.findings(findings, doctor.node_facts(context), as_json)
    sys.exit(doctor.exit_code(findings))


def _doctor_context(device: str, nproc: int | None, nnodes: int, node_rank: int, endpoint: str | None, recipe: Path | None) -> Any:  # fmt: skip
    from launcher import doctor, spec
    from launcher.cluster import npu

    found = npu.look(None, os.environ)
    kind: Any = device if device != "auto" else "npu" if found.devices else "cpu"
    values: dict[str, Any] = {
        "nproc": nproc,
        "num_nodes": nnodes,
        "rdzv_endpoint": endpoint,
        "is_first_node": not node_rank,
    }
    if recipe is not None:
        loaded = spec.load(recipe).spec
        values |= {"precision": loaded.parallel.precision, "strategy": loaded.parallel.strategy}
        values |= {"output_dir": Path(loaded.output_dir), "model_name": loaded.model.name, "hub": loaded.model.hub}
    return doctor.context(kind, found=found, **values)


def _node_facts(path: Path) -> dict[str, Any]:
    from launcher import rundir

    value = rundir.read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("node"), dict):
        raise LaunchError(
            f"{path}: not what `ascend-launch doctor --json` writes", hint="run it on each node, and save its output"
        )
    facts: dict[str, Any] = value["node"]
    return facts


@cli.command(name="explain")
@click.argument("path")
@click.option("--lang", type=click.Choice(["auto", "en", "zh"]), default="auto", envvar="ASCEND_LAUNCH_LANG", help="Language of the explanation [auto: the locale's].")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON object.")
def explain_command(path: str, lang: Any, as_json: bool) -> None:
    """Say what went wrong in PATH: a run directory, a plog folder, a log file, or - for standard input."""
    from launcher import explain, show

    language = explain.language() if lang == "auto" else lang
    show.explanation(explain.explain_path(path, language), language, as_json)


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
    from launcher import plan

    loaded, cluster, options, config = _inputs(recipe, overrides, machine, debug=debug, pretend=pretend)
    return loaded, cluster, plan.make(loaded, cluster, options, config)


def _inputs(recipe: Path, overrides: tuple[str, ...], machine: dict[str, Any], *, debug: bool, pretend: bool) -> tuple[Loaded, Cluster, Options, dict[str, Any] | None]:  # fmt: skip
    from launcher import assets, plan, spec
    from launcher.cluster import detect

    loaded = spec.load(recipe, overrides)
    nodes = detect.Nodes(machine["nnodes"], machine["node_rank"], machine["rdzv_endpoint"])
    device, nproc, chip, hbm = machine["device"], machine["nproc"], machine["chip"], machine["hbm"]
    if (chip or hbm) and not pretend:
        raise LaunchError(
            "--chip and --hbm are for plan, render and --dry-run", hint="a launch asks the cards themselves"
        )
    if pretend and (chip or hbm or device == "npu"):
        cluster = None if chip or hbm else _real_cards(detect, nodes, nproc)
        cluster = cluster or detect.assumed(1 if debug else nproc or 8, nodes, chip or detect.ASSUMED_CHIP, hbm)
    else:
        cluster = detect.here(device, os.environ, nodes)
    model = loaded.spec.model
    config = assets.model_config(model.name, model.revision)
    supervision = plan.Supervision(
        max_restarts=machine["max_restarts"],
        hang_timeout_s=machine["hang_timeout"],
        grace_s=machine["grace"],
        join_timeout_s=machine["join_timeout"],
        start_method=machine["start_method"],
    )
    options = plan.Options(nproc=nproc, debug=debug, supervision=supervision)
    return loaded, cluster, options, config


def _real_cards(detect: Any, nodes: Any, nproc: int | None) -> Cluster | None:
    try:
        cluster: Cluster = detect.here("npu", os.environ, nodes)
    except LaunchError:
        return None
    return cluster if nproc is None or nproc <= len(cluster.devices) else None


def _show_render(loaded: Loaded, plan: Plan, run: RunDir, node_rank: int, as_json: bool) -> None:
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
