"""What the commands share: the options that describe the machine, and the way from them to a plan."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from launcher.accelerators import table as accelerators
from launcher.errors import LaunchError
from launcher.messages import Message, joined

if TYPE_CHECKING:
    from launcher.machine.cluster import Cluster
    from launcher.planning.plan import Options, Plan, Supervision
    from launcher.plugins import Table
    from launcher.recipe.load import Loaded
    from launcher.recipe.schema import RecipeSpec


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
    from launcher.cli import completion

    return completion.recipe_paths(incomplete)


def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
    from launcher.cli import completion

    return completion.recipe_names(incomplete)


def _complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
    from launcher.cli import completion

    return completion.keys(incomplete)


class Count(click.ParamType):
    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value in (None, "auto"):
            return None
        from launcher.machine.nodes import is_number

        if isinstance(value, int) or (is_number(str(value)) and int(value) > 0):
            return int(value)
        raise click.BadParameter(Message("{value!r} is neither a number of ranks nor auto", value=value), ctx, param)


class Named(click.Choice):
    """What a table has built in, or a name of another package's, which is looked for when it is given or completed."""

    def __init__(self, table: Table[Any], *others: str) -> None:
        super().__init__([*others, *table.built_in])
        self._table = table

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices and value in self._table:
            return value
        return super().convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        added = [name for name in self._table.names() if name not in self.choices and name.startswith(incomplete)]
        return [*super().shell_complete(ctx, param, incomplete), *map(CompletionItem, added)]


class Seconds(click.FloatRange):
    """A time that ends: JSON, and so a plan, has neither NaN nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            raise click.BadParameter(Message("{value!r} is no number of seconds", value=value), ctx, param)
        return found


class RecipeFile(click.Path):
    """A recipe file, or the name of a shipped recipe."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from launcher import assets

        return assets.recipe(Path(os.fsdecode(super().convert(value, param, ctx))))


def machine_options(command: Any) -> Any:
    options = [
        click.option(
            "--nproc",
            type=Count(),
            default="auto",
            envvar="ASCEND_LAUNCH_NPROC",
            help="Ranks on this node [default: auto, one a card].",
        ),
        click.option(
            "--device",
            type=Named(accelerators.TABLE, accelerators.AUTO),
            default="auto",
            envvar="ASCEND_LAUNCH_DEVICE",
            help="Where ranks compute [default: auto, npu where there is one].",
        ),
        click.option(
            "--nnodes",
            type=click.IntRange(1),
            envvar="ASCEND_LAUNCH_NNODES",
            help="Nodes of the job [default: from the cluster's environment, else 1].",
        ),
        click.option(
            "--node-rank",
            type=click.IntRange(0),
            envvar="ASCEND_LAUNCH_NODE_RANK",
            help="Rank of this node, from 0 [default: from the cluster's environment].",
        ),
        click.option(
            "--rdzv-endpoint",
            metavar="HOST:PORT",
            envvar="ASCEND_LAUNCH_RDZV_ENDPOINT",
            help="Host and port of node 0, the same on every node [default: from the cluster's environment].",
        ),
        click.option(
            "--rank-table",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Rank table for HCCL to read [default: none; ranks find each other].",
        ),
        click.option(
            "--chip", metavar="NAME", help="Chip to plan for, with plan, render and --dry-run [default: 910B3]."
        ),
        click.option(
            "--hbm",
            type=click.IntRange(1),
            metavar="GB",
            help="Memory of a card in GB, with plan, render and --dry-run [default: the chip's].",
        ),
    ]
    return recipe_arguments(_add(options[:-2], supervision_options(_add(options[-2:], command))))


def recipe_arguments(command: Any) -> Any:
    options = [
        click.argument("recipe", type=RecipeFile(), shell_complete=complete_recipe),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=_complete_key),
    ]
    return _add(options, command)


def supervision_options(command: Any) -> Any:
    options = [
        click.option(
            "--max-restarts",
            type=click.IntRange(0),
            default=0,
            help="Maximum number of restarts after a failure, each from the newest whole checkpoint [default: 0].",
        ),
        click.option(
            "--hang-timeout",
            type=Seconds(0),
            default=1800.0,
            metavar="SECONDS",
            help="End a job whose ranks have stood still for this long; 0 for never [default: 1800].",
        ),
        click.option(
            "--grace",
            type=Seconds(0),
            default=60.0,
            metavar="SECONDS",
            help="Time that ranks have to save between a stop signal and a kill [default: 60].",
        ),
        click.option(
            "--join-timeout",
            type=Seconds(0),
            default=600.0,
            metavar="SECONDS",
            help="Time for all nodes to join [default: 600; for pods of submit, a day].",
        ),
        click.option(
            "--start-method",
            type=click.Choice(["auto", "fork", "spawn"]),
            default="auto",
            help="How ranks are started [default: auto, which forks where a trial fork works].",
        ),
    ]
    return _add(options, command)


def _add(options: list[Any], command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


def decide(
    recipe: Path, overrides: tuple[str, ...], machine: dict[str, Any], *, debug: bool, pretend: bool
) -> tuple[Loaded, Cluster, Plan]:
    """Load, detect, decide. `pretend`: plan for the cards asked for, whatever this machine has."""
    from launcher.planning.decide import make

    loaded, cluster, options, config = inputs(recipe, overrides, machine, debug=debug, pretend=pretend)
    return loaded, cluster, make(loaded, cluster, options, config)


def supervision(machine: dict[str, Any]) -> Supervision:
    """What the command line says of how ranks are watched."""
    from launcher.planning.plan import Supervision

    return Supervision(
        max_restarts=machine["max_restarts"],
        hang_timeout_s=machine["hang_timeout"],
        grace_s=machine["grace"],
        join_timeout_s=machine["join_timeout"],
        start_method=machine["start_method"],
    )


def doctor_values(recipe: RecipeSpec, precision: str, strategy: str, training: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe the doctor looks at; the rest of a doctor.Context is of the machine."""
    from launcher.render import env

    return {
        "precision": precision,
        "strategy": strategy,
        "output_dir": Path(recipe.output_dir),
        "loader_workers": int(training.get("dataloader_num_workers") or 0),
        "report_to": env.report_to(training),
        "model_name": recipe.model.name,
        "hub": recipe.model.hub,
        "needs": _needs(recipe, strategy),
    }


def require_packages(names: tuple[str, ...]) -> None:
    """For what starts no ranks and asks nothing of the machine.

    Raises:
        LaunchError: one is not installed, or of a release that this launcher was not made for; with the pip line.
    """
    from launcher.checks import Context
    from launcher.diagnose.doctor import versions
    from launcher.machine.cluster import Found

    context = Context(os.environ, accelerators.HOST, Found(()), versions.installed(), needs=names)
    failed = [f for f in (versions.check_torch_pair(context), versions.check_packages(context)) if f.ok == "fail"]
    if failed:
        raise LaunchError(joined((f.what for f in failed), "\n"), hint=joined((f.fix for f in failed), "\n       "))


def _needs(recipe: RecipeSpec, strategy: str) -> tuple[str, ...]:
    """The packages that ranks of this recipe import, by the names of doctor.BOUNDS."""
    from launcher.strategies import table as strategies

    ranks = ("torch", "transformers", "accelerate")
    if recipe.script is not None:
        return ()
    chosen = strategies.chosen(strategy)
    asked = {
        "deepspeed": chosen is not None and chosen.needs_deepspeed,
        "peft": recipe.adapter is not None,
        "gguf": recipe.model.gguf_file is not None,
        "modelscope": recipe.model.hub == "modelscope",
    }
    return (*ranks, "datasets", "evaluate", "scikit-learn", *(name for name, is_asked in asked.items() if is_asked))


def inputs(
    recipe: Path,
    overrides: tuple[str, ...],
    machine: dict[str, Any],
    *,
    debug: bool,
    pretend: bool,
    elsewhere: bool = False,
    is_training: bool = True,
    is_theirs: Callable[[str], bool] = lambda path: False,
) -> tuple[Loaded, Cluster, Options, dict[str, Any] | None]:
    """What a plan is made of. `pretend`: nothing is going to be started here; `elsewhere`: nor are this machine's cards meant.
    `is_training`: the recipe's model is what is trained, and is looked at, as are the packages of its optimizer and trackers.
    `is_theirs`: whether a path is one of the job's machines, which this one cannot look into."""
    from launcher import assets
    from launcher.accelerators import detect
    from launcher.clusters import environment
    from launcher.diagnose.doctor import versions
    from launcher.models.config import model_config
    from launcher.models.folder import check, require_model
    from launcher.planning import plan
    from launcher.planning.decide import wanted

    loaded = load(recipe, overrides, trains_here=is_training and not elsewhere)
    told = (machine["nnodes"], machine["node_rank"], machine["rdzv_endpoint"])
    nodes = environment.find(os.environ, *told, pretend=pretend).told_nproc(machine["nproc"])
    device, chip, hbm = machine["device"], machine["chip"], machine["hbm"]
    nproc, source = machine["nproc"], "--nproc"
    if nproc is None and nodes.nproc is not None:
        nproc, source = nodes.nproc, f"{nodes.nproc_variable} of"
    if (chip or hbm) and not pretend:
        raise LaunchError(
            "--chip and --hbm are for plan, render and --dry-run", hint="a launch asks the cards themselves"
        )
    has_cards = device != accelerators.AUTO and accelerators.load(device).has_cards
    if pretend and (chip or hbm or has_cards):
        cards = device if has_cards else accelerators.ASSUMED
        cluster = None if chip or hbm or elsewhere else _real_cards(detect, cards, nodes, nproc)
        cluster = cluster or detect.assumed(1 if debug else nproc or 8, nodes, chip, hbm, device=cards)
    else:
        cluster = detect.here(device, os.environ, nodes)
    model = loaded.spec.model
    is_here = not is_theirs(model.name)
    trains = is_training and is_here and loaded.spec.script is None
    folder = assets.model_folder(model.name, model.revision) if trains else None
    if folder is not None and model.gguf_file is None:
        require_model(folder)
    config = model_config(model.name, model.revision) if is_here else None
    about = check(folder, config, wanted(loaded.spec, cluster.device)) if trains else None
    options = plan.Options(
        nproc=nproc,
        nproc_source=source,
        debug=debug,
        supervision=supervision(machine),
        rank_table=_rank_table(machine.get("rank_table")),
        model=about,
        deepspeed_version=versions.installed(["deepspeed"]).get("deepspeed"),
    )
    return loaded, cluster, options, config


GIVEN = ("COMMANDLINE", "ENVIRONMENT")


def load(recipe: Path, overrides: tuple[str, ...], *, trains_here: bool = False) -> Loaded:
    """The recipe as it stands now: links in its paths are followed. A run directory's own goes by that run's name."""
    from dataclasses import replace

    from launcher.recipe import load as loading
    from launcher.recipe.load import pinned
    from launcher.rundir import paths

    before = paths.plan_beside(recipe)
    if before is None:
        return pinned(loading.load(recipe, overrides, trains_here=trains_here))
    loaded = loading.load(recipe, overrides, trains_here=trains_here, recipe_dir=Path(before.recipe_dir))
    return replace(loading.pinned(loaded), name=before.name)


def given(skip: Container[str], changed: Mapping[str, str] = {}, sources: Container[str] = GIVEN) -> list[str]:
    """The options of this command that were given, on the command line or by a variable, as words to give them again."""
    context = click.get_current_context()
    words: list[str] = []
    for param in context.command.params:
        name = param.name or ""
        source = context.get_parameter_source(name)
        if not isinstance(param, click.Option) or name in skip or source is None or source.name not in sources:
            continue
        value = changed.get(name, context.params[name])
        if param.is_flag:
            words.append(param.opts[-1] if value else param.secondary_opts[-1])
            continue
        for one in value if param.multiple else [value]:
            words += [param.opts[-1], "auto" if one is None else str(one)]
    return words


def _rank_table(path: Path | None) -> str | None:
    if path is None:
        return None
    if path.is_symlink() or not path.is_file():
        kind = Message("a link, which HCCL refuses") if path.is_symlink() else Message("no such file")
        raise LaunchError(
            "--rank-table {path}: {kind}", hint="`ascend-launch ranktable --out FILE` makes one", path=path, kind=kind
        )
    return str(path.resolve())


def _real_cards(detect: Any, device: str, nodes: Any, nproc: int | None) -> Cluster | None:
    try:
        cluster: Cluster = detect.here(device, os.environ, nodes)
    except LaunchError:
        return None
    return cluster if nproc is None or nproc <= len(cluster.devices) else None
