"""program: the user's own script, module or executable on every rank, with torchrun's options."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.accelerators import table as accelerators
from launcher.cli import hostfile, torchrun
from launcher.cli.job import continuing_command
from launcher.cli.options import refuse_unwatched, supervision_options
from launcher.cli.program_options import NOT_TAKEN, ONLY, add_options, read_variables
from launcher.errors import LaunchError

if TYPE_CHECKING:
    from launcher.cli.screen import Streams
    from launcher.jobs.view import View
    from launcher.machine.cluster import Cluster
    from launcher.planning.plan import Accelerate, Plan
    from launcher.recipe.load import Loaded
    from launcher.recipe.program import Program


@click.command(
    name="program",
    context_settings={"allow_interspersed_args": False, "token_normalize_func": lambda word: word.replace("_", "-")},
)
@add_options
@supervision_options
@hostfile.options
@click.option(
    "--output-events", is_flag=True, hidden=True, help="With --json: the output of the ranks that are shown, as events."
)
@click.argument("words", nargs=-1, required=True, metavar="PROGRAM [ARGS]...", type=click.UNPROCESSED)
def program_command(words: tuple[str, ...], **given: Any) -> None:
    """Run PROGRAM with its ARGS on every rank: a Python script, a module (-m) or an executable (--no-python).

    The first argument that is not an option is the program; everything after it is the program's. The options are
    torchrun's, in both spellings, and PET_ variables count.
    """
    from launcher.cli import screen
    from launcher.jobs import launch, programs
    from launcher.machine.nodes import folder_name
    from launcher.planning.plan import Options
    from launcher.recipe.program import check

    refuse(given)
    refuse_unwatched(click.get_current_context())
    on_screen = screen.Streams(given["redirects"], given["tee"], given["local_ranks_filter"])
    on_screen.check()
    program = program_of(words, given)
    check(program)
    hosts = hostfile.hosts_of(given)
    if hosts is not None:
        sys.exit(hostfile.run_program(program, words, on_screen, hosts, given))
    asked_of_accelerate = accelerate_of(given)
    machine = torchrun.machine_of(given)
    options = Options(
        supervision=torchrun.supervision_of(given),
        accelerate=asked_of_accelerate,
        strategy=given["strategy"],
        precision=given["precision"],
    )
    shown = program.model_copy(update={"args": without_secrets(program.args)})
    loaded = programs.loaded(program, given["log_dir"])
    cluster, made = programs.planned(shown, loaded, machine, options, pretend=given["dry_run"])
    logs = {"separate_logs": on_screen.separate(made.nproc_per_node)}
    program, made = program.model_copy(update=logs), made.model_copy(update={"program": shown.model_copy(update=logs)})
    if made.num_nodes == 1 and given["master_port"]:
        made = made.model_copy(update={"rdzv_endpoint": f"127.0.0.1:{given['master_port']}"})
    job = None if given["rdzv_id"] in (None, "none") else folder_name(given["rdzv_id"])
    if given["dry_run"]:
        _show(loaded, cluster, made, given["run_dir"])
        return
    is_hidden = program != made.program  # a secret among its arguments is not shown again
    work = launch.Work(loaded, cluster, made, given["run_dir"], job or cluster.job, program.args if is_hidden else None)
    view = _view(on_screen, made, cluster.node_rank, given)
    sys.exit(
        launch.launch(work, view, lambda run: "" if is_hidden else continuing_command(made, run, cluster.node_rank))
    )


read_variables(program_command)


def _view(on_screen: Streams, plan: Plan, node_rank: int, given: dict[str, Any]) -> View:
    from launcher.show import program, run

    is_among_others = given["output_events"]
    shown = on_screen.of_node(plan.nproc_per_node, node_rank, is_among_others=is_among_others)
    if is_among_others:
        return program.OutputEventsView(shown)
    return run.view(True) if given["as_json"] else program.view(shown)


def _show(loaded: Loaded, cluster: Cluster, plan: Plan, run_dir: Path | None) -> None:
    """The plan and the commands; nothing is started or written."""
    from launcher.jobs import accelerated, launch
    from launcher.render import files
    from launcher.rundir.paths import RunDir
    from launcher.show.plan import commands_and_no_more
    from launcher.show.program import ProgramView

    run = RunDir(run_dir or Path(loaded.spec.output_dir) / plan.name / "RUN")
    plan = accelerated.environment(plan, run, launch.user_env(), cluster.node_rank)
    ProgramView().plan(plan, run, loaded)
    commands_and_no_more(files.commands(plan, run, cluster.node_rank))


def refuse(given: dict[str, Any]) -> None:
    """Raises LaunchError for an option of torchrun's that cannot be honoured, by its name."""
    for name, instead in NOT_TAKEN.items():
        if given[name]:
            raise LaunchError(
                "--{name} is not supported",
                hint="leave it out; {instead}",
                name=name.replace("_", "-"),
                instead=instead,
            )
    for name, (values, why) in ONLY.items():
        if given[name] is not None and given[name] not in values:
            raise LaunchError(
                "--{name} {given} is not supported",
                hint="leave it out; {why}",
                name=name.replace("_", "-"),
                given=given[name],
                why=why,
            )


def program_of(words: tuple[str, ...], given: dict[str, Any]) -> Program:
    """The program that the arguments and the options name."""
    from launcher.recipe.program import Kind, Program

    if given["module"] and given["no_python"]:
        raise LaunchError("--module and --no-python exclude each other", hint="leave one out")
    kind: Kind = "module" if given["module"] else "executable" if given["no_python"] else "script"
    return Program(
        kind=kind,
        target=words[0],
        args=words[1:],
        role=given["role"],
        local_rank_option=given["local_rank_option"] and not given["use_env"],
    )


def accelerate_of(given: dict[str, Any]) -> Accelerate | None:
    """What is asked of accelerate; a config file's ranks and machines go into the options that were not given.

    Raises:
        LaunchError: two options say the same, or the config file cannot be used.
    """
    from launcher.jobs import accelerated
    from launcher.planning.plan import Accelerate

    path, strategy, precision = given["accelerate_config"], given["strategy"], given["precision"]
    words: list[str] = []
    if path is not None:
        if strategy is not None:
            raise LaunchError(
                "--accelerate-config and --strategy both say how to train", hint="leave one out; --precision may stay"
            )
        _take_machines(accelerated.config(path), given)
        words += ["--config_file", str(path.resolve())]
    more = _split(given["accelerate_args"])
    if any(word.startswith("--aws") for word in more):
        raise LaunchError("--accelerate-args: SageMaker's options are not supported", hint="leave them out")
    renders = path is None and not more and (strategy or precision) is not None
    if strategy is not None and more:
        raise LaunchError(
            "--strategy and --accelerate-args both say how to train", hint="leave one out; --precision may stay"
        )
    words += ["--mixed_precision", accelerated.PRECISIONS[precision]] if precision is not None else []
    words += more
    return Accelerate(words=tuple(words), renders=renders) if words or renders else None


def _split(text: str | None) -> list[str]:
    try:
        return shlex.split(text or "")
    except ValueError as error:
        raise LaunchError(
            "--accelerate-args {text}: {error}", hint="close the quotation", text=text, error=error
        ) from None


def _take_machines(config: dict[str, Any], given: dict[str, Any]) -> None:
    """What the config file says of devices, ranks and machines, where the command line and the variables say nothing."""
    nodes = config.get("num_machines") or 1
    if given["nproc"] is None and isinstance(config.get("num_processes"), int):
        given["nproc"] = max(1, config["num_processes"] // nodes)
    if given["device"] == accelerators.AUTO and config.get("use_cpu") is True:
        given["device"] = accelerators.HOST
    if nodes == 1 or given["nnodes"] is not None:
        return
    given["nnodes"] = nodes
    for option, key in (
        ("node_rank", "machine_rank"),
        ("master_addr", "main_process_ip"),
        ("master_port", "main_process_port"),
    ):
        if given[option] is None and not (option == "master_addr" and given["rdzv_endpoint"]):
            given[option] = config.get(key)


def without_secrets(args: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments as a run directory may hold them."""
    from launcher.scrub import hidden

    out, name = [], ""
    for word in args:
        key, equals, value = word.partition("=")
        if word.startswith("-") and equals:
            out.append(f"{key}={hidden(key, value)}")
            name = ""
        elif word.startswith("-"):
            out.append(word)
            name = word
        else:
            out.append(hidden(name or "argument", word))
            name = ""
    return tuple(out)
