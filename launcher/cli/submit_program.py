"""submit for your own program, or any command: the job of a cluster's queue that starts it on every node."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from launcher.cli import program as program_cli
from launcher.cli.options import given as options_given
from launcher.cli.options import supervision_of
from launcher.cli.program_options import OPTIONS
from launcher.cli.submit import ANY_ENDPOINT, SUPERVISION, Work, hand_over, job_options, target_of
from launcher.errors import LaunchError
from launcher.messages import Message

if TYPE_CHECKING:
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
"""Options of a program's launch that submit says in words of its own, or the cluster says."""
ALSO = {"nproc": "--nproc-per-node", "nodes": "--nnodes"}
"""torchrun's spelling of options of submit's."""


def _program_options(command: Any) -> Any:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def _parameters() -> tuple[list[click.Parameter], list[click.Parameter]]:
    """The options of submit, and of a program. This shell's PET_ variables are not the job's."""

    own = _declared(job_options)
    names = {param.name for param in own} | OF_THE_JOB
    theirs = [param for param in _declared(_program_options) if param.name not in names]
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
    """Submit your own PROGRAM, in the words of `ascend-launch program`."""
    from launcher.cli import screen

    context = click.get_current_context()
    target = target_of(context, options)
    said = {**dict.fromkeys(OF_THE_JOB), **options}
    program_cli.refuse(said)
    screen.Streams(options["redirects"], options["tee"], options["local_ranks_filter"]).check()
    program = program_cli.program_of(words, options)
    if target == "slurm":
        program_cli.accelerate_of(said)
    hand_over(context, _work(program, target, "program", options), options)


def _submit_command(words: tuple[str, ...], **options: Any) -> None:
    """Submit any COMMAND; it runs once on each node, and every torchrun that it starts there is ours."""
    from launcher.recipe.program import Program

    context = click.get_current_context()
    target = target_of(context, options)
    extra = [param.opts[-1] for param in PROGRAM_PARAMETERS if _is_given(context, param.name)]
    if extra:
        raise LaunchError(
            "{extra}: only for a program",
            hint="leave it out; the command's own torchrun may have it",
            extra=", ".join(extra),
        )
    command = Program(kind="executable", target=words[0], args=words[1:])
    hand_over(context, _work(command, target, "command", options), options)


JOB_PARAMETERS, PROGRAM_PARAMETERS = _parameters()
WORDS = click.Argument(["words"], nargs=-1, required=True, metavar="PROGRAM [ARGS]...", type=click.UNPROCESSED)
PARAMETERS: list[click.Parameter] = [*JOB_PARAMETERS, *PROGRAM_PARAMETERS, WORDS]


class _AsSubmit(click.Command):
    """Goes by the name that it was typed under."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return super().make_context("submit", args, parent, **extra)


submit_program_command = _AsSubmit(
    "submit-program",
    callback=_submit_program,
    params=PARAMETERS,
    context_settings=SETTINGS,
    hidden=True,
    help=_submit_program.__doc__,
)
submit_command_command = _AsSubmit(
    "submit-command",
    callback=_submit_command,
    params=PARAMETERS,
    context_settings=SETTINGS,
    hidden=True,
    help=_submit_command.__doc__,
)


def _is_given(context: click.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def _work(program: Program, target: str, kind: str, options: dict[str, Any]) -> Work:
    """Raises LaunchError for a secret among the words, and for a file that no node will have."""
    from launcher.clusters import paths
    from launcher.recipe import program as programs
    from launcher.show import program as view
    from launcher.show import run as show_run

    _refuse_secrets(program, target)
    loaded, plan = _planned(program, options)
    files = _local_files(program, kind, options)
    if target == "slurm":
        if program.kind == "script":
            programs.check(program)
        doubts = paths.of_this_disk([("program", path) for path in files])
    else:
        _require_in_pods(files, options)
        doubts = []
    who = "each node runs, once," if kind == "command" else "each rank runs"
    return Work(
        loaded=loaded,
        plan=plan,
        argv=lambda run_dir, name: _argv(plan, program, kind, run_dir),
        again=lambda run: _again(run, program, kind),
        doubts=doubts,
        view=lambda as_json: show_run.view(True) if as_json else view.ProgramView(who=who),
    )


def _refuse_secrets(program: Program, target: str) -> None:
    shown = program_cli.without_secrets(program.args)
    if shown == program.args:
        return
    at = next(i for i, (a, b) in enumerate(zip(program.args, shown, strict=True)) if a != b)
    name: str = program.args[at - 1] if at and program.args[at - 1].startswith("-") else Message("an argument")
    if "=" in program.args[at] and program.args[at].startswith("-"):
        name = program.args[at].partition("=")[0]
    instead = (
        Message("export it as a variable, such as HF_TOKEN, before you submit: srun hands it on")
        if target == "slurm"
        else Message("make a Secret of it, and say --secret NAME=SECRET:KEY, for a variable that the program reads")
    )
    raise LaunchError(
        Message("{name}: a secret's value must not stand in a job's script or manifest", name=name), hint=instead
    )


def _planned(program: Program, options: dict[str, Any]) -> tuple[Loaded, Plan]:
    """The ranks, and nothing else: what a program trains, and how, is its own."""
    from launcher.accelerators import detect
    from launcher.accelerators import table as accelerators
    from launcher.clusters import environment
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


def _argv(plan: Plan, program: Program, kind: str, run_dir: Path | None) -> list[str]:
    """`program` or `command` with its options and words, as every node gets it."""
    context = click.get_current_context()
    argv = [kind, "--nproc", str(plan.nproc_per_node), "--device", plan.device]
    if run_dir is not None:
        argv += ["--run-dir", str(run_dir)]
    # A pod's own time to join is put there without being typed.
    argv += [
        word
        for param in context.command.params
        if param.name in SUPERVISION and context.params[param.name] != param.default
        for word in (param.opts[0], str(context.params[param.name]))
    ]
    if kind == "program":
        argv += options_given({param.name for param in JOB_PARAMETERS})
    return [*argv, *(["--"] if kind == "command" else []), program.target, *program.args]


def _again(run: RunDir, program: Program, kind: str) -> str:
    from launcher import again

    words = options_given({"run_dir", "dry_run"})
    dashes = ["--"] if kind == "command" else []
    return again.command(["submit", *words, "--run-dir", str(run.path), *dashes, program.target, *program.args])


def _local_files(program: Program, kind: str, options: dict[str, Any]) -> list[str]:
    """Paths that a program's start needs: its own, and what its options name; a command's words that are files here."""
    files = [str(options["accelerate_config"])] if options["accelerate_config"] else []
    if kind == "command":
        return [*files, *(word for word in (program.target, *program.args) if _is_local(word))]
    if program.kind == "module":
        head = program.target.partition(".")[0]
        return [*files, *(found for found in (head, f"{head}.py") if Path(found).exists())]
    is_path = program.kind == "script" or (os.sep in program.target and _is_local(program.target))
    return [*files, *([program.target] if is_path else [])]


def _is_local(word: str) -> bool:
    """Whether a word is a file of this machine's user; the system's are in every image."""
    path = Path(word)
    return path.is_file() and not (path.is_absolute() and any(path.is_relative_to(place) for place in SYSTEM))


def _require_in_pods(files: Sequence[str], options: dict[str, Any]) -> None:
    """Raises LaunchError for a file of this machine that pods do not have: on no mount of theirs, and by all that can be
    seen not in their image."""
    from launcher.clusters.kubernetes.pod import Mount

    mounts = [Mount.parse(text) for text in options["mounts"]]
    lost = [
        path for path in files if not _is_theirs(path, options["workdir"], lambda p: any(m.holds(p) for m in mounts))
    ]
    if lost:
        raise LaunchError(
            "{lost}: a file of this machine; the pods have no such file",
            hint="name it as the pods see it: on a volume (--mount CLAIM:/code, then /code/…), or its path in "
            "the image (--workdir DIR says where relative paths start there)",
            lost=lost[0],
        )


def _is_theirs(path: str, workdir: str | None, is_mounted: Callable[[str], bool]) -> bool:
    there = str(PurePosixPath(workdir) / path) if workdir else path
    return (there.startswith("/") and is_mounted(there)) or not Path(there).exists()
