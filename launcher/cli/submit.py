"""submit: from a recipe to a job in a cluster's queue."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher import streams
from launcher.accelerators import table as accelerators
from launcher.cli.options import (
    Count,
    Named,
    given,
    machine_of,
    recipe_arguments,
    supervision_of,
    supervision_options,
)
from launcher.errors import EXIT_INTERRUPTED, LaunchError
from launcher.messages import Message, plural

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.load import Loaded
    from launcher.rundir.paths import RunDir
    from launcher.show.run import View


TARGETS = {"slurm": "", "kubernetes": "pytorchjob", "volcano": "volcano"}
"""Option → the kind of manifest, for Kubernetes."""
ANY_ENDPOINT = "first-node:29400"
"""Stands for the first node while the job is only planned: its nodes are not known before it starts."""
PODS_JOIN_S = 86400.0
"""How long a pod waits for the others where nobody says: one pulls its image or waits for a host while the first is up, and
a launcher that gives up would end the job for good."""
SUPERVISION = ("max_restarts", "hang_timeout", "grace", "join_timeout", "start_method")
COMMANDLINE = click.core.ParameterSource.COMMANDLINE


SLURM_OPTIONS = [
    click.option(
        "--time", metavar="LIMIT", help="Time limit, as 90, 1:30:00 or 1-12:00:00 [default: the partition's]."
    ),
    click.option("--partition", metavar="NAME", help="The partition [default: the site's default]."),
    click.option("--account", metavar="NAME", help="The account."),
    click.option("--qos", metavar="NAME", help="The quality of service."),
    click.option("--constraint", metavar="FEATURES", help="Features that nodes must have."),
    click.option("--npus", type=click.IntRange(1), help="Cards of each node, as --gres=npu:N."),
    click.option("--gres", metavar="LIST", help="Generic resources of each node, as the site spells them for --gres."),
    click.option("--cpus-per-task", type=click.IntRange(1), metavar="N", help="Cores of each node."),
    click.option("--mem", metavar="SIZE", help="Memory of each node, as 200G."),
    click.option(
        "--exclusive/--shared",
        default=None,
        help="Reserve whole nodes [default: yes, unless a number of cards is asked for].",
    ),
    click.option(
        "--output", metavar="FILE", help="What the job prints [default: slurm-%j.out beside the run directory]."
    ),
    click.option("--requeue/--no-requeue", default=True, help="Requeue the job after a preemption [default: yes]."),
    click.option("--follow", is_flag=True, help="Show the job until it ends, and exit as it does."),
]
KUBERNETES_OPTIONS = [
    click.option("--image", metavar="IMAGE", help="Image of the pods, with ascend-launch in it; required."),
    click.option(
        "--mount", "mounts", multiple=True, metavar="CLAIM:/path[:ro]", help="A claim's folder, or /host/path:/path."
    ),
    click.option("--namespace", metavar="NAME", help="The namespace [default: kubectl's own]."),
    click.option("--resource", metavar="NAME", help="The cards' name in the cluster [default: huawei.com/Ascend910]."),
    click.option(
        "--shm", type=click.IntRange(1), metavar="GIB", help="Size of /dev/shm [default: 4 a rank, at least 16]."
    ),
    click.option("--cpu", metavar="N", help="Cores of each pod."),
    click.option("--memory", metavar="SIZE", help="Memory of each pod, as 200Gi."),
    click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="A variable of the pods."),
    click.option(
        "--secret", "secrets", multiple=True, metavar="NAME=SECRET:KEY", help="A variable whose value is in a Secret."
    ),
    click.option(
        "--node-selector", "node_selector", multiple=True, metavar="KEY=VALUE", help="A label that nodes must have."
    ),
    click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of the job and its pods."),
    click.option(
        "--workdir", metavar="DIR", help="Where the recipe's relative paths start [default: the image's own]."
    ),
    click.option(
        "--driver/--no-driver",
        default=True,
        help="Mount the host's driver files [default: yes]; not needed with the Ascend Docker Runtime.",
    ),
    click.option("--host-network", is_flag=True, help="The host's network for the pods."),
    click.option("--queue", metavar="NAME", help="The queue of the batch scheduler."),
]


def _grouped(command: Any) -> Any:
    for option in reversed([*SLURM_OPTIONS, *KUBERNETES_OPTIONS]):
        command = option(command)
    return command


def _names(options: list[Any]) -> set[str]:
    probe = click.Command("probe")
    for option in options:
        option(probe)
    return {param.name or "" for param in probe.params}


class _Submit(click.Command):
    """Lists the options by the cluster that they are for."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] RECIPE [KEY=VALUE]...")
        formatter.write_usage(ctx.command_path, "[OPTIONS] [-m] PROGRAM [ARGS]...", prefix="       ")
        formatter.write_usage(ctx.command_path, "[OPTIONS] -- COMMAND [ARGS]...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups = {"Slurm": _names(SLURM_OPTIONS), "Kubernetes": _names(KUBERNETES_OPTIONS)}
        rows: dict[str, list[tuple[str, str]]] = {"Options": [], **{name: [] for name in groups}}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                rows[next((g for g, names in groups.items() if param.name in names), "Options")].append(record)
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records)


TARGET_OPTIONS = [
    click.option("--slurm", is_flag=True, help="As a Slurm batch job, by sbatch."),
    click.option("--kubernetes", is_flag=True, help="As a PyTorchJob of Kubeflow's training-operator, by kubectl."),
    click.option("--volcano", is_flag=True, help="As a Volcano job, by kubectl."),
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
    for option in reversed(JOB_OPTIONS):
        command = option(_grouped(command) if option is JOB_OPTIONS[-1] else command)
    command = supervision_options(command)
    for option in reversed(TARGET_OPTIONS):
        command = option(command)
    return command


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

    from launcher.jobs import inputs

    target = target_of(ctx, options)
    machine = replace(
        machine_of(options),
        nnodes=options["nodes"],
        node_rank=0,
        rdzv_endpoint=ANY_ENDPOINT if options["nodes"] > 1 else None,
    )
    is_theirs = _below_mounts(options["mounts"]) if target != "slurm" else lambda path: False
    asked = inputs.gather(
        recipe, overrides, machine, supervision_of(options), pretend=True, elsewhere=True, is_theirs=is_theirs
    )
    loaded, made = asked.loaded, asked.plan()
    hand_over(ctx, _recipe_work(ctx, loaded, made, recipe, (*overrides, *loaded.pins), options), options)


@dataclass(frozen=True)
class Work:
    """What a job runs on its nodes."""

    loaded: Loaded
    plan: Plan
    argv: Callable[[Path | None, str], list[str]]
    """The words after `ascend-launch` on a node, by the run directory and the name of the job's ConfigMap ('' with Slurm)."""
    again: Callable[[RunDir], str]
    """The command that submits a job which goes on with a run, ready to paste; '' where it may not be shown."""
    doubts: Sequence[str]
    """A sentence for each file that the nodes may not have."""
    files: Callable[[str], Mapping[str, str]] = lambda name: {}
    """What travels in the ConfigMap of that name."""
    view: Callable[[bool], View] | None = None
    """How it is shown, if not as a recipe's job: by whether JSON is asked for."""


def _recipe_work(
    ctx: click.Context, loaded: Loaded, plan: Plan, recipe: Path, overrides: tuple[str, ...], options: dict[str, Any]
) -> Work:
    from launcher.clusters import paths
    from launcher.clusters.kubernetes import manifest
    from launcher.clusters.kubernetes.manifest import RECIPE_DIR
    from launcher.clusters.kubernetes.pod import Mount
    from launcher.render import files

    script = loaded.spec.script
    script_path = Path(plan.recipe_dir) / script if script else None
    if options["slurm"]:
        return Work(
            loaded=loaded,
            plan=plan,
            argv=lambda run_dir, name: _run_argv(ctx, plan, str(recipe.absolute()), overrides, run_dir),
            again=lambda run: _again(run, recipe, overrides),
            doubts=paths.on_own_disk(loaded.spec, recipe, script_path),
        )
    mounts = [Mount.parse(text) for text in options["mounts"]]
    resolved = loaded if script is None else _with_script(loaded, Path(script).name)
    return Work(
        loaded=loaded,
        plan=plan,
        # The overrides are in the resolved recipe already.
        argv=lambda run_dir, name: _run_argv(ctx, plan, f"{RECIPE_DIR}/{name}.yaml", (), run_dir),
        again=lambda run: "",
        doubts=paths.in_pods(loaded.spec, options["workdir"], lambda path: any(m.holds(path) for m in mounts)),
        files=lambda name: manifest.recipe_files(files.recipe(resolved), name, script_path),
    )


def hand_over(ctx: click.Context, work: Work, options: dict[str, Any]) -> None:
    """Give a job to the cluster that the options name."""
    if options["slurm"]:
        _slurm(work, options)
    else:
        _kubernetes(ctx, work, TARGETS["volcano" if options["volcano"] else "kubernetes"], options)


def target_of(ctx: click.Context, options: dict[str, Any]) -> str:
    """The cluster that the options name.

    Raises:
        LaunchError: none or several, an option for another one, or a --cann that can be no file there.
    """
    targets = [name for name in TARGETS if options[name]]
    if len(targets) != 1:
        what = (
            Message("--{targets}: a job goes to one of them", targets=" and --".join(targets))
            if targets
            else Message("submit needs to know where to")
        )
        raise LaunchError(what, hint="say --slurm, --kubernetes or --volcano")
    target = targets[0]
    _refuse_others(ctx, KUBERNETES_OPTIONS if target == "slurm" else SLURM_OPTIONS, target)
    _require_script(options["cann"])
    return target


def _below_mounts(words: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a path is the pods': below a mount, or one of their image's that is not here."""
    from launcher.clusters.kubernetes.pod import Mount

    mounts = [Mount.parse(text) for text in words]
    return lambda path: any(m.holds(path) for m in mounts) or (path.startswith("/") and not Path(path).exists())


def _refuse_others(ctx: click.Context, group: list[Any], target: str) -> None:
    """An option for another cluster would change nothing, and so is a mistake."""
    others = _names(group)
    given = [p for p in ctx.command.params if p.name in others and ctx.get_parameter_source(p.name) is COMMANDLINE]
    if given:
        where = "--slurm" if target != "slurm" else "--kubernetes and --volcano"
        raise LaunchError(
            "{given}: only for {where}", hint="leave it out", given=", ".join(p.opts[0] for p in given), where=where
        )


def _require_cards(plan: Plan, npus: int | None, gres: str | None) -> None:
    """Raises LaunchError where the cards that Slurm is asked for are said twice, or are fewer than the ranks."""
    from launcher.clusters.slurm import script as sbatch

    listed = sbatch.cards(gres or "", plan.accelerator.gres or accelerators.load(accelerators.ASSUMED).gres)
    if npus is not None and listed is not None:
        raise LaunchError(
            "--npus {npus} and --gres {gres} both say how many cards",
            hint="say it once: leave --npus out",
            npus=npus,
            gres=gres,
        )
    cards, said = (npus, f"--npus {npus}") if npus is not None else (listed, f"--gres {gres}")
    if plan.accelerator.has_cards and cards is not None and cards < plan.nproc_per_node:
        raise LaunchError(
            plural(
                "{text} gives each node {count} card, and --nproc {nproc_per_node} starts {nproc_per_node} ranks there",
                "{text} gives each node {count} cards, and --nproc {nproc_per_node} starts {nproc_per_node} "
                "ranks there",
                count=cards,
                text=said,
                nproc_per_node=plan.nproc_per_node,
            ),
            hint=Message(
                "ask for {nproc_per_node} cards, or say --nproc {cards}",
                nproc_per_node=plan.nproc_per_node,
                cards=cards,
            )
            if cards
            else "ask for a card for each rank",
        )


def _require_script(cann: str | None) -> None:
    """Raises LaunchError where --cann can be no set_env.sh on any node. Whether a node has it, only the node can tell."""
    if cann in (None, "none"):
        return
    path = Path(cann)
    if not path.is_absolute():
        raise LaunchError(
            "--cann {cann!r} is not an absolute path", hint="as in /usr/local/Ascend/cann/set_env.sh", cann=cann
        )
    if path.is_dir():
        raise LaunchError(
            "--cann {cann}: a folder", hint="name the file to source, as in {path}", cann=cann, path=path / "set_env.sh"
        )


def _run_argv(
    ctx: click.Context, plan: Plan, recipe: str, overrides: tuple[str, ...], run_dir: Path | None
) -> list[str]:
    """`run` with its options and words, as every node gets it."""
    argv = ["run", "--nproc", str(plan.nproc_per_node), "--device", plan.device]
    if run_dir is not None:
        argv += ["--run-dir", str(run_dir)]
    for param in ctx.command.params:
        if param.name in SUPERVISION and ctx.params[param.name] != param.default:
            argv += [param.opts[0], str(ctx.params[param.name])]
    return [*argv, "--", recipe, *overrides]  # a recipe or an override may begin with a dash


def _slurm(work: Work, options: dict[str, Any]) -> None:
    from launcher.clusters.slurm import queue
    from launcher.clusters.slurm import script as sbatch
    from launcher.clusters.slurm.script import Allocation, Command
    from launcher.rundir.paths import RunDir
    from launcher.show import jobs, results
    from launcher.show import run as show_run

    run_dir = options["run_dir"].absolute() if options["run_dir"] else None
    python, plan = Path(sys.executable), work.plan
    argv = [str(python), "-m", "launcher.cli", *work.argv(run_dir, "")]
    home = run_dir or Path(work.loaded.spec.output_dir).absolute() / plan.name
    _require_cards(plan, options["npus"], options["gres"])
    if options["follow"] and options["dry_run"]:
        raise LaunchError("--follow: --dry-run submits nothing to follow", hint="leave one of them out")
    gres = ",".join(filter(None, [options["gres"], f"npu:{options['npus']}" if options["npus"] else None])) or None
    whole = options["exclusive"]
    allocation = Allocation(
        job_name=options["job_name"] or sbatch.plain(plan.name),
        output=str(Path(options["output"]).absolute()) if options["output"] else sbatch.literal(home) + "/slurm-%j.out",
        gres=gres,
        exclusive=whole if whole is not None else plan.accelerator.has_cards and gres is None,
        **{
            k: options[k]
            for k in ("time", "partition", "account", "qos", "constraint", "cpus_per_task", "mem", "requeue")
        },
    )
    cann = "" if options["cann"] == "none" else options["cann"]
    text = sbatch.script(plan, allocation, Command(argv, python, Path.cwd(), cann))
    if gres and not allocation.exclusive and allocation.cpus_per_task is None:
        results.doubt(
            gres,
            Message(
                "cards alone get a node's job one core in most sites; --cpus-per-task N or --exclusive asks for more"
            ),
        )
    for sentence in work.doubts:
        results.doubt("--slurm", sentence)
    if options["dry_run"]:
        jobs.would_submit(text, plan, options["as_json"])
        return
    if run_dir is not None:
        before = RunDir(run_dir)
        before.claim(plan, work.again(before))
    RunDir(home).create()
    env = dict(os.environ)
    streams.outlive()
    job = queue.sbatch(text, env)
    run = RunDir(run_dir or home / f"slurm-{job}")
    view = (work.view or show_run.view)(options["as_json"])
    where = "Slurm chooses them when the job starts" if plan.num_nodes > 1 else ""
    view.plan(plan.model_copy(update={"rdzv_endpoint": None, "nodes_reason": where}), run, work.loaded)
    output = Path(sbatch.filled(allocation.output, job))
    view.submitted(job, str(output), text)
    if options["follow"]:
        _follow(view, job, run, output, env, work.again(run))


def _again(run: RunDir, recipe: Path, overrides: tuple[str, ...]) -> str:
    """The command that submits a job which goes on with a run: by its own recipe, once it has one."""
    from launcher import again

    words = [str(run.recipe_path)] if run.recipe_path.exists() else [str(recipe), *overrides]
    return again.command(["submit", *given({"run_dir", "dry_run"}), "--run-dir", str(run.path), *words])


def _follow(view: Any, job: str, run: RunDir, output: Path, env: dict[str, str], again: str) -> None:
    from launcher.clusters.slurm import queue
    from launcher.jobs.afterwards import explained, goes_on

    try:
        with view:
            outcome = queue.follow(job, run, output, env, view.event, view.job)
    except KeyboardInterrupt:
        view.detached(job)
        sys.exit(EXIT_INTERRUPTED)
    report = explained(outcome, run) if run.path.exists() else None
    view.end(outcome, run, report, again=again if goes_on(outcome, run) else "")
    sys.exit(outcome.exit_code)


def _kubernetes(ctx: click.Context, work: Work, kind: Any, options: dict[str, Any]) -> None:
    from launcher.clusters.kubernetes import client, document, manifest
    from launcher.clusters.kubernetes.pod import Mount, Pod, job_name
    from launcher.show import jobs, results

    if not options["image"]:
        raise LaunchError("--kubernetes and --volcano need --image", hint="name an image that has ascend-launch in it")
    plan = work.plan
    name = job_name(options["job_name"] or plan.name)
    mounts = tuple(Mount.parse(text) for text in options["mounts"])
    run_dir = _kept(options["run_dir"], mounts, name)
    contents = work.files(name)
    pod = Pod(
        mounts=mounts,
        shm_gib=options["shm"],
        env=_pairs("--env", options["env"]),
        secrets={k: _secret(k, v) for k, v in _pairs("--secret", options["secrets"]).items()},
        node_selector=_pairs("--node-selector", options["node_selector"]),
        labels=_pairs("--label", options["labels"]),
        cann=None if options["cann"] == "none" else options["cann"],
        **{
            k: options[k]
            for k in ("image", "namespace", "resource", "cpu", "memory", "workdir", "driver", "host_network", "queue")
        },
    )
    if plan.num_nodes > 1 and ctx.get_parameter_source("join_timeout") is not COMMANDLINE:
        ctx.params["join_timeout"] = PODS_JOIN_S
    argv = ["ascend-launch", *work.argv(run_dir, name)]
    text = document.text(manifest.manifest(kind, plan, pod, name, contents, argv))
    for sentence in work.doubts:
        results.doubt("--volcano" if options["volcano"] else "--kubernetes", sentence)
    if options["dry_run"]:
        jobs.would_submit(text, plan, options["as_json"])
        return
    streams.outlive()
    made = client.kubectl(text, options["namespace"], dict(os.environ))
    jobs.created(made, name, str(run_dir), text, options["as_json"])


def _kept(run_dir: Path | None, mounts: tuple[Any, ...], name: str) -> Path:
    """The run directory in the pods: on something that outlives them, and that all of them see."""
    writable = [m for m in mounts if not m.read_only]
    if run_dir is None:
        if not writable:
            raise LaunchError(
                "there is no place for the run that outlives its pods", hint="give one: --mount CLAIM:/results"
            )
        return Path(writable[-1].path) / name
    if not any(m.holds(str(run_dir)) for m in writable):
        raise LaunchError(
            "--run-dir {run_dir}: on no writable mount, so it would be lost with the pods",
            hint="name a folder below the path of a --mount",
            run_dir=run_dir,
        )
    return run_dir


def _with_script(loaded: Loaded, name: str) -> Loaded:
    from dataclasses import replace

    return replace(loaded, spec=loaded.spec.model_copy(update={"script": name}))


def _pairs(option: str, words: tuple[str, ...]) -> dict[str, str]:
    out = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise LaunchError(
                "{option} {word!r} is not NAME=VALUE", hint="as in {option} NAME=VALUE", option=option, word=word
            )
        out[key] = value
    return out


def _secret(variable: str, word: str) -> tuple[str, str]:
    secret, colon, key = word.partition(":")
    if not secret or not colon or not key:
        raise LaunchError(
            "the Secret for {variable} is given as {word!r}, without a key of it",
            hint="give the Secret's name, a colon, and the key's name",
            variable=variable,
            word=word,
        )
    return secret, key
