"""submit for your own program, or any command: the job of a cluster's queue that starts it on every node."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from launcher.cli import program as program_cli
from launcher.cli.cluster_options import QueueCommand
from launcher.cli.options import given as options_given
from launcher.cli.options import supervision_of
from launcher.cli.program_options import add_options
from launcher.cli.submit import hand_over, job_options, supervision_words, target_of
from launcher.errors import LaunchError
from launcher.messages import Message

if TYPE_CHECKING:
    from launcher.clusters.submission import Submission, Work
    from launcher.clusters.table import Cluster
    from launcher.planning.plan import Plan
    from launcher.recipe.load import Loaded
    from launcher.recipe.program import Program
    from launcher.rundir.paths import RunDir


OF_THE_JOB = frozenset(
    {
        "nproc",
        "device",
        "nnodes",
        "node_rank",
        "master_addr",
        "master_port",
        "rdzv_endpoint",
        "rdzv_id",
        "rdzv_conf",
        "rdzv_backend",
        "standalone",
        "run_dir",
        "dry_run",
        "as_json",
    }
)
"""Options of a program's launch that submit has under other names, or the cluster sets."""
ALSO = {"nproc": "--nproc-per-node", "nodes": "--nnodes"}
"""torchrun's spelling of options of submit's."""


def _parameters() -> tuple[list[click.Parameter], list[click.Parameter]]:
    """The options of submit, and of a program. This shell's PET_ variables are not the job's."""

    own = _declared(job_options)
    names = {param.name for param in own} | OF_THE_JOB
    theirs = [param for param in _declared(add_options) if param.name not in names]
    for param in own:
        param.opts = [*([ALSO[param.name]] if param.name in ALSO else []), *param.opts]
    return own, theirs


def _declared(options: Callable[[Any], Any]) -> list[click.Parameter]:
    probe = click.Command("probe")
    options(probe)
    for param in probe.params:
        param.envvar = None
    return probe.params[::-1]  # as decorators are written


SYSTEM = ("/bin", "/usr", "/opt")
"""Where an image's own programs are."""
SETTINGS: dict[str, Any] = {
    "allow_interspersed_args": False,
    "token_normalize_func": lambda word: word.replace("_", "-"),
}


def _submit_program(words: tuple[str, ...], **options: Any) -> None:
    """Submit your own PROGRAM, with the options of `ascend-launch program`."""
    from launcher.cli import screen

    context = click.get_current_context()
    cluster, submission = target_of(context)
    given = {**dict.fromkeys(OF_THE_JOB), **options}
    program_cli.refuse(given)
    screen.Streams(options["redirects"], options["tee"], options["local_ranks_filter"]).check()
    program = program_cli.program_of(words, options)
    if cluster.shares_files:
        program_cli.accelerate_of(given)
    _hand_over(cluster, submission, program, "program")


def _submit_command(words: tuple[str, ...], **options: Any) -> None:
    """Submit any COMMAND; it runs once on each node, and every torchrun that it starts there is ours."""
    from launcher.recipe.program import Program

    context = click.get_current_context()
    cluster, submission = target_of(context)
    extra = [param.opts[-1] for param in PROGRAM_PARAMETERS if _is_given(context, param.name) and param.name != "hooks"]
    if extra:
        raise LaunchError(
            "{extra}: only for a program",
            hint="leave it out; the command's own torchrun may have it",
            extra=", ".join(extra),
        )
    _hand_over(cluster, submission, Program(kind="executable", target=words[0], args=words[1:]), "command")


def _hand_over(cluster: Cluster, submission: Submission, program: Program, kind: str) -> NoReturn:
    from launcher.show import program as view_module
    from launcher.show import run as show_run

    context = click.get_current_context()
    who = "each node runs, once," if kind == "command" else "each rank runs"
    view = show_run.view(True) if context.params["as_json"] else view_module.ProgramView(who=who)
    work = _work(context, cluster, program, kind)
    hand_over(context, cluster, submission, work, view, lambda run: _again(run, program, kind))


JOB_PARAMETERS, PROGRAM_PARAMETERS = _parameters()
WORDS = click.Argument(["words"], nargs=-1, required=True, metavar="PROGRAM [ARGS]...", type=click.UNPROCESSED)
PARAMETERS: list[click.Parameter] = [*JOB_PARAMETERS, *PROGRAM_PARAMETERS, WORDS]


class _AsSubmit(QueueCommand):
    """Goes by the name that it was typed under."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return super().make_context("submit", args, parent, **extra)


submit_program_command = _AsSubmit(
    "submit-program",
    callback=_submit_program,
    params=[*PARAMETERS],
    context_settings=SETTINGS,
    hidden=True,
    help=_submit_program.__doc__,
)
submit_command_command = _AsSubmit(
    "submit-command",
    callback=_submit_command,
    params=[*PARAMETERS],
    context_settings=SETTINGS,
    hidden=True,
    help=_submit_command.__doc__,
)


def _is_given(context: click.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def _work(context: click.Context, cluster: Cluster, program: Program, kind: str) -> Work:
    """Raises LaunchError for a secret among the arguments, and for a missing program where nodes see these files."""
    from launcher.clusters.submission import Work
    from launcher.recipe import program as programs

    _refuse_secrets(program, cluster)
    loaded, plan = _planned(program, context.params)
    files = _local_files(program, kind, context.params)
    if cluster.shares_files and program.kind == "script":
        programs.check(program)
    # A pod's own time to join is put there without being typed.
    options = supervision_words(context, cluster, plan)
    if kind == "program":
        options += options_given({param.name for param in context.command.params if param not in PROGRAM_PARAMETERS})
    elif context.params["hooks"] != "auto":
        options += ["--hooks", context.params["hooks"]]
    words = [*(["--"] if kind == "command" else []), program.target, *program.args]
    return Work(plan=plan, loaded=loaded, command=kind, words=words, options=options, files=files)


def _refuse_secrets(program: Program, cluster: Cluster) -> None:
    shown = program_cli.without_secrets(program.args)
    if shown == program.args:
        return
    at = next(i for i, (a, b) in enumerate(zip(program.args, shown, strict=True)) if a != b)
    name: str = program.args[at - 1] if at and program.args[at - 1].startswith("-") else Message("an argument")
    if "=" in program.args[at] and program.args[at].startswith("-"):
        name = program.args[at].partition("=")[0]
    raise LaunchError(
        Message("{name}: a secret's value must not stand in a job's script or manifest", name=name),
        hint=cluster.credentials_hint,
    )


def _planned(program: Program, options: dict[str, Any]) -> tuple[Loaded, Plan]:
    """The ranks, and nothing else: what a program trains, and how, is its own."""
    from launcher.accelerators import detect
    from launcher.accelerators import table as accelerators
    from launcher.clusters import environment
    from launcher.jobs.submit import ANY_ENDPOINT
    from launcher.planning import decide, plan
    from launcher.recipe import load
    from launcher.recipe.schema import RecipeSpec

    endpoint = ANY_ENDPOINT if options["nodes"] > 1 else None
    nodes = environment.find({}, options["nodes"], 0, endpoint, pretend=True)
    device = options["device"]
    if accelerators.load(device).has_cards:
        cluster = detect.assumed(options["nproc"] or 8, nodes, options["chip"], options["hbm"], device=device)
    else:
        cluster = detect.here(device, os.environ, nodes)
    recipe = RecipeSpec(output_dir=str(options["log_dir"] or "runs"), report=False)
    loaded = load.Loaded(recipe, program.name, Path.cwd() / program.name.replace(".", "_"), {})
    asked = plan.Options(nproc=options["nproc"], supervision=supervision_of(options))
    return loaded, decide.of_program(program, loaded, cluster, asked)


def _again(run: RunDir, program: Program, kind: str) -> str:
    from launcher import again

    words = options_given({"run_dir", "dry_run"})
    dashes = ["--"] if kind == "command" else []
    return again.command(["submit", *words, "--run-dir", str(run.path), *dashes, program.target, *program.args])


def _local_files(program: Program, kind: str, options: dict[str, Any]) -> list[str]:
    """Paths that a program's start needs: its own, and what its options name; of a command, arguments that are files."""
    files = [str(options["accelerate_config"])] if options["accelerate_config"] else []
    if kind == "command":
        return [*files, *(word for word in (program.target, *program.args) if _is_local(word))]
    if program.kind == "module":
        head = program.target.partition(".")[0]
        return [*files, *(name for name in (head, f"{head}.py") if Path(name).exists())]
    is_path = program.kind == "script" or (os.sep in program.target and _is_local(program.target))
    return [*files, *([program.target] if is_path else [])]


def _is_local(word: str) -> bool:
    """Whether an argument is a file of this machine's user; the system's are in every image."""
    path = Path(word)
    return path.is_file() and not (path.is_absolute() and any(path.is_relative_to(place) for place in SYSTEM))
