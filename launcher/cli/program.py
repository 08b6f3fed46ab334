"""program: the user's own script, module or executable on every rank, in torchrun's words."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from launcher import streams
from launcher.cli import hostfile, outputs
from launcher.cli.options import Count, Seconds, supervision, supervision_options
from launcher.errors import EXIT_JOB_FAILED, EXIT_OK, LaunchError
from launcher.strategies import table as strategies

if TYPE_CHECKING:
    from launcher.cluster.model import Cluster
    from launcher.plan import Accelerate, Plan
    from launcher.program import Program
    from launcher.show.program import Source
    from launcher.spec import Loaded


class _StrategyName(click.Choice):
    """A built-in strategy, or one of another package, which is looked for when it is named."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices and value in strategies.TABLE:
            return value
        return super().convert(value, param, ctx)


Device = Literal["auto", "npu", "cpu"]
MASTER_PORT = 29500
"""torchrun's own, for several nodes that name none."""
NOT_TAKEN = {
    "local_addr": "HCCL_IF_IP or GLOO_SOCKET_IFNAME name a node's own address",
    "numa_binding": "start each rank under numactl with --no-python",
    "virtual_local_rank": "LOCAL_RANK is the rank's own here",
    "duplicate_stdout_filters": "filter the rank's log in the run directory",
    "duplicate_stderr_filters": "filter the rank's log in the run directory",
}
"""Options of torchrun that have no counterpart here, and what to do instead."""
ONLY = {
    "rdzv_backend": ({"static", "c10d"}, "every rank meets over one store of the agent's"),
    "event_log_handler": ({"null"}, "events are in events.jsonl of the run directory"),
    "logs_specs": ({"default"}, "logs are in the run directory"),
    "signals_to_handle": ({"SIGTERM,SIGINT,SIGHUP,SIGQUIT"}, "SIGTERM, SIGINT and SIGUSR1 are passed on to the ranks"),
}
"""Options of torchrun that are taken with these values alone."""


class Ranks(Count):
    """torchrun's --nproc-per-node: a number, auto, or a kind of device."""

    name = "N|auto|cpu|npu"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value in ("cpu", "gpu", "npu") else super().convert(value, param, ctx)


class Nodes(click.ParamType):
    """torchrun's --nnodes: a number, or MIN:MAX where both are the same."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value is None or isinstance(value, int):
            return value
        least, _, most = str(value).partition(":")
        if most and most != least:
            raise click.BadParameter(f"{value}: a job has one size here; give one number", ctx, param)
        if not (least.isascii() and least.isdecimal() and int(least)):
            raise click.BadParameter(f"{value!r} is not a number of nodes", ctx, param)
        return int(least)


def _option(*names: str, env: str = "", **settings: Any) -> Any:
    """An option with torchrun's own PET_ variable, and ours before it."""
    variables = [f"ASCEND_LAUNCH_{env}"] if env else []
    variables.append("PET_" + names[-1].lstrip("-").replace("-", "_").upper())
    return click.option(*names, envvar=variables, **settings)


OPTIONS = [
    _option("--nproc", "--nproc-per-node", type=Ranks(), env="NPROC", help="Ranks on this node [default: one a card, on CPU one]."),
    click.option("--device", type=click.Choice(["auto", "npu", "cpu"]), default="auto", envvar="ASCEND_LAUNCH_DEVICE", help="Where ranks compute [default: npu where there is one, else cpu]."),
    _option("--nnodes", type=Nodes(), env="NNODES", help="Nodes of the job [default: from the cluster's environment, else 1]."),
    _option("--node-rank", type=click.IntRange(0), env="NODE_RANK", help="Rank of this node, from 0 [default: from the cluster's environment]."),
    _option("--master-addr", metavar="HOST", help="Host of node 0 [default: from the cluster's environment]."),
    _option("--master-port", type=click.IntRange(1, 65535), metavar="PORT", help="Port on node 0 [default: a free one on one node, 29500 on several]."),
    _option("--rdzv-endpoint", metavar="HOST[:PORT]", env="RDZV_ENDPOINT", help="Host and port of node 0, the same on every node; another spelling of --master-addr and --master-port."),
    _option("--rdzv-id", metavar="NAME", help="Name of the job, the same on every node: its run directory is called so."),
    _option("--rdzv-conf", metavar="KEY=VALUE,...", help="join_timeout=SECONDS and rank=N are taken."),
    _option("--rdzv-backend", metavar="NAME", help="static or c10d, which are the same here."),
    click.option("--standalone", is_flag=True, help="One node, whatever the cluster's environment says."),
    _option("-m", "--module", is_flag=True, help="PROGRAM is a module's name, as for python -m."),
    _option("--no-python", is_flag=True, help="PROGRAM is an executable, started as it is on every rank."),
    _option("--run-path", is_flag=True, help="Accepted as torchrun does; a script always runs as __main__ here."),
    _option("--role", default="default", metavar="NAME", help="ROLE_NAME of the ranks, and the prefix of their lines [default: default]."),
    _option("--log-dir", type=outputs.Target(file_okay=False), metavar="FOLDER", help="Folder that run directories are made below [default: runs]."),
    click.option("--run-dir", type=outputs.Target(file_okay=False), metavar="FOLDER", help="Directory of this run [default: a new one below --log-dir]."),
    _option("-t", "--tee", default="0", metavar="0|1|2|3|RANK:1,...", help="Show standard output (1), standard error (2) or both (3) of these local ranks, each line with its rank; each stream has a log [default: local rank 0 alone, as it is]."),
    _option("-r", "--redirects", default="0", metavar="0|1|2|3|RANK:1,...", help="Keep standard output (1), standard error (2) or both (3) of these local ranks off the screen; each stream has a log, in the run directory."),
    _option("--local-ranks-filter", default="", metavar="RANK,...", help="Show the output of these local ranks only."),
    click.option("--use-env", is_flag=True, hidden=True, help="With a line of torch.distributed.launch: no --local-rank=N before the arguments."),
    click.option("--local-rank-option", is_flag=True, hidden=True, help="Put --local-rank=N before the arguments, as torch.distributed.launch does."),
    click.option("--accelerate-config", type=click.Path(path_type=Path), metavar="FILE", help="Set what `accelerate launch --config_file FILE` sets for its ranks; its processes and machines count where no option says them."),
    click.option("--strategy", type=_StrategyName(strategies.BUILT_IN), help="Set what accelerate launch sets for this strategy, by a config made for it [default: nothing is set]."),
    click.option("--precision", type=click.Choice(["bf16", "fp16", "fp32"]), help="Set what accelerate launch sets for this precision [default: nothing is set]."),
    click.option("--accelerate-args", metavar="OPTIONS", help="More options of accelerate launch as one word, such as '--use_deepspeed --zero_stage 2'."),
    click.option("--no-preload", is_flag=True, help="Import nothing beforehand: each rank imports everything itself."),
    _option("--monitor-interval", type=float, hidden=True, help="Accepted: the end of a rank is heard at once."),
    _option("--shutdown-timeout", type=Seconds(0), hidden=True, help="Another name of --grace."),
    _option("--local-addr", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--numa-binding", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--virtual-local-rank", is_flag=True, hidden=True, help="Of torchrun; refused by name."),
    _option("--duplicate-stdout-filters", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--duplicate-stderr-filters", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--event-log-handler", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--logs-specs", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--signals-to-handle", hidden=True, help="Of torchrun; refused by name where it would change something."),
    click.option("--dry-run", is_flag=True, help="Show what would be started, and start nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line; the program's output is in the logs."),
]  # fmt: skip


def _options(command: Any) -> Any:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(
    name="program",
    context_settings={"allow_interspersed_args": False, "token_normalize_func": lambda word: word.replace("_", "-")},
)
@_options
@supervision_options
@hostfile.options
@click.option(
    "--output-events", is_flag=True, hidden=True, help="With --json: the output of the ranks that are shown, as events."
)
@click.argument("words", nargs=-1, required=True, metavar="PROGRAM [ARGS]...", type=click.UNPROCESSED)
def program_command(words: tuple[str, ...], **given: Any) -> None:
    """Run PROGRAM with its ARGS on every rank: a Python script, a module (-m) or an executable (--no-python).

    The first word that is no option is the program; everything after it is the program's. The options are torchrun's,
    in both spellings, and PET_ variables count.
    """
    from launcher import plan, spec
    from launcher import program as programs
    from launcher.cli import screen
    from launcher.cluster import detect, environment
    from launcher.cluster.nodes import folder_name

    refuse(given)
    on_screen = screen.Streams(given["redirects"], given["tee"], given["local_ranks_filter"])
    on_screen.check()
    program = program_of(words, given)
    programs.check(program)
    far = {name: given.pop(name) for name in hostfile.OWN}
    if far["hostfile"] is not None:
        sys.exit(hostfile.launch_program(program, words, on_screen, given, far))
    hostfile.refuse_alone(far)
    asked_of_accelerate = accelerate_of(given)
    asked, device = _ranks(given["nproc"], given["device"])
    count, rank, endpoint = _nodes(given)
    if count is not None and count > 1 and (rank, endpoint) == (None, None):
        # Said again of what the cluster says, which also numbers the nodes.
        count = None if _counts(os.environ, count) else count
    nodes = environment.find(os.environ, count, rank, endpoint, pretend=given["dry_run"]).told_nproc(asked)
    cluster = detect.here(device, os.environ, nodes)
    shown = program.model_copy(update={"args": without_secrets(program.args)})
    loaded = spec.Loaded(_recipe(given), program.name, Path.cwd() / program.name.replace(".", "_"), {})
    options = plan.Options(
        nproc=asked if asked is not None else nodes.nproc,
        supervision=_supervision(given),
        accelerate=asked_of_accelerate,
        strategy=given["strategy"],
        precision=given["precision"],
    )
    made = plan.of_program(shown, loaded, cluster, options)
    logs = {"separate_logs": on_screen.separate(made.nproc_per_node)}
    program, made = program.model_copy(update=logs), made.model_copy(update={"program": shown.model_copy(update=logs)})
    if made.num_nodes == 1 and given["master_port"]:
        made = made.model_copy(update={"rdzv_endpoint": f"127.0.0.1:{given['master_port']}"})
    job = None if given["rdzv_id"] in (None, "none") else folder_name(given["rdzv_id"])
    if given["dry_run"]:
        _show(loaded, cluster, made, given["run_dir"])
        return
    launch(
        loaded,
        cluster,
        made,
        program,
        run_dir=given["run_dir"],
        job=job or cluster.job,
        as_json=given["as_json"],
        shown=on_screen.of_node(made.nproc_per_node, cluster.node_rank, is_among_others=given["output_events"]),
        output_events=given["output_events"],
    )


def _show(loaded: Loaded, cluster: Cluster, plan: Plan, run_dir: Path | None) -> None:
    """The plan and the commands; nothing is started or written."""
    from launcher import accelerated, rundir, show
    from launcher.render import files
    from launcher.show.program import ProgramView

    run = rundir.RunDir(run_dir or Path(loaded.spec.output_dir) / plan.name / "RUN")
    plan = accelerated.environment(plan, run, _user_env(), cluster.node_rank)
    ProgramView().plan(plan, run, loaded)
    show.commands_and_no_more(files.commands(plan, run, cluster.node_rank))


def launch(
    loaded: Loaded, cluster: Cluster, plan: Plan, program: Program, *, run_dir: Path | None, job: str | None,
    as_json: bool, shown: tuple[Source, ...], output_events: bool = False,
) -> NoReturn:  # fmt: skip
    """Start the ranks, show their output, and end with 0, or with 1 where one failed or the job was stopped."""
    from launcher import accelerated, records, rundir, show, supervise
    from launcher import program as programs
    from launcher.cli import launch as launching
    from launcher.render import env, files
    from launcher.show import program as view_module

    is_new = run_dir is None and job is None
    run = launching.run_directory(run_dir, loaded, plan, job, cluster.node_rank)
    lock = run.lock()
    try:
        facts = launching.require_health(plan, cluster, run)
        user_env = _user_env()
        plan = accelerated.environment(plan, run, user_env, cluster.node_rank)
    except LaunchError:
        if is_new:
            rundir.discard(run)
        raise
    files.write(files.texts(loaded, plan, run, user_env, cluster.node_rank), run)
    rundir.append_event(run.events_path, records.Machine.of(facts))
    child_env = env.of_agent(plan, run.path.resolve(), user_env)
    if program != plan.program:
        child_env[programs.ARGS] = json.dumps(program.args)
    streams.outlive()
    view = show.view(True) if as_json else view_module.ProgramView(view_module.with_errors(shown))
    view.plan(plan, run, loaded)
    if is_new:
        rundir.point_latest(run.path)
    write = view_module.output_event if output_events else view_module.show_output
    output = view_module.Output(run, shown, role=program.role, write=write)
    is_followed = output_events or not as_json
    argv = files.agent_argv(run, cluster.node_rank, is_program=True)
    with view:
        outcome = supervise.run(
            argv, run, child_env, view.event, on_poll=output if is_followed else None, lock=lock,
            has_stdin=plan.world_size == 1,
        )  # fmt: skip
        if is_followed:
            output.finish()
    # A secret among its arguments is not shown again.
    is_shown = program == plan.program and launching.goes_on(outcome, run)
    again = launching.continuing_command(plan, run, cluster.node_rank) if is_shown else ""
    view.end(outcome, run, launching.cause_explained(outcome, run), again=again)
    sys.exit(EXIT_OK if outcome.exit_code == EXIT_OK else EXIT_JOB_FAILED)


def _user_env() -> dict[str, str]:
    """The environment as the user has it."""
    from launcher import nested

    user = dict(os.environ)
    nested.leave(user)
    return user


def refuse(given: dict[str, Any]) -> None:
    """Raises LaunchError for an option of torchrun's that cannot be honoured, by its name."""
    for name, instead in NOT_TAKEN.items():
        if given[name]:
            raise LaunchError(f"--{name.replace('_', '-')} is not supported", hint=f"leave it out; {instead}")
    for name, (values, why) in ONLY.items():
        if given[name] is not None and given[name] not in values:
            raise LaunchError(f"--{name.replace('_', '-')} {given[name]} is not supported", hint=f"leave it out; {why}")


def program_of(words: tuple[str, ...], given: dict[str, Any]) -> Program:
    """The program that the words and the options say."""
    from launcher.program import Kind, Program

    if given["module"] and given["no_python"]:
        raise LaunchError("--module and --no-python exclude each other", hint="leave one out")
    kind: Kind = "module" if given["module"] else "executable" if given["no_python"] else "script"
    return Program(
        kind=kind, target=words[0], args=words[1:], role=given["role"],
        local_rank_option=given["local_rank_option"] and not given["use_env"],
    )  # fmt: skip


def accelerate_of(given: dict[str, Any]) -> Accelerate | None:
    """What is asked of accelerate; a config file's ranks and machines go into the options that were not given.

    Raises:
        LaunchError: two options say the same, or the config file cannot be used.
    """
    from launcher import accelerated
    from launcher.plan import Accelerate

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
        raise LaunchError(f"--accelerate-args {text}: {error}", hint="close the quotation") from None


def _take_machines(config: dict[str, Any], given: dict[str, Any]) -> None:
    """What the config file says of devices, ranks and machines, where the command line and the variables say nothing."""
    nodes = config.get("num_machines") or 1
    if given["nproc"] is None and isinstance(config.get("num_processes"), int):
        given["nproc"] = max(1, config["num_processes"] // nodes)
    if given["device"] == "auto" and config.get("use_cpu") is True:
        given["device"] = "cpu"
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


def _ranks(asked: Any, device: Device) -> tuple[int | None, Device]:
    if asked == "cpu":
        return os.cpu_count() or 1, "cpu"
    if asked in ("npu", "gpu"):
        return None, "npu" if asked == "npu" else device
    return asked, device


def _nodes(given: dict[str, Any]) -> tuple[int | None, int | None, str | None]:
    """Count, rank and endpoint as the options say them; None for what they leave to the cluster's environment."""
    if given["standalone"]:
        return 1, None, None
    conf = _rdzv_conf(given)
    rank = given["node_rank"] if given["node_rank"] is not None else conf
    endpoint, count = given["rdzv_endpoint"], given["nnodes"]
    if given["master_addr"] and endpoint:
        raise LaunchError("--master-addr and --rdzv-endpoint say the same", hint="leave one out")
    host = given["master_addr"] or endpoint
    if count == 1 or (host is None and count is None):
        return count, rank if count is None else None, None
    if host is None:
        return count, rank, None
    if given["master_addr"] or ":" not in host.rpartition("]")[2]:
        from launcher.cluster.nodes import join_endpoint

        port = given["master_port"] or (MASTER_PORT if given["master_addr"] else 29400)
        host = join_endpoint(host, port)
    return count, rank, host


def _counts(env: Mapping[str, str], count: int) -> bool:
    """Whether the cluster's environment says that many nodes."""
    from launcher.cluster import environment

    try:
        return environment.find(env, pretend=True).count == count
    except LaunchError:
        return False


def _rdzv_conf(given: dict[str, Any]) -> int | None:
    """The node's rank by --rdzv-conf; its join_timeout goes into the options.

    Raises:
        LaunchError: a key that has no counterpart.
    """
    rank = None
    for part in filter(None, (given["rdzv_conf"] or "").split(",")):
        key, _, value = part.partition("=")
        if key == "join_timeout" and value.isdecimal():
            given["join_timeout"] = float(value)
        elif key == "rank" and value.isdecimal():
            rank = int(value)
        elif key not in ("timeout", "read_timeout", "is_host"):  # of the store's, which the agent looks after
            raise LaunchError(f"--rdzv-conf {part} is not supported", hint="join_timeout=SECONDS and rank=N are taken")
    return rank


def _supervision(given: dict[str, Any]) -> Any:
    if given["shutdown_timeout"] is not None:
        given["grace"] = given["shutdown_timeout"]
    return supervision(given).model_copy(update={"preload": not given["no_preload"]})


def _recipe(given: dict[str, Any]) -> Any:
    from launcher import spec

    return spec.RecipeSpec(output_dir=str(given["log_dir"] or "runs"), report=False)


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
