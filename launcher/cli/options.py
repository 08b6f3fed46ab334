"""What the commands share: the options that describe the machine, and what they say."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from launcher.accelerators import table as accelerators
from launcher.errors import LaunchError
from launcher.messages import Message

if TYPE_CHECKING:
    from launcher.jobs.options import Machine
    from launcher.planning.plan import Supervision
    from launcher.plugins import Table


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
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            raise click.BadParameter(Message("{value!r} is not a number of seconds", value=value), ctx, param)
        return seconds


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
    return recipe_arguments(with_options(options[:-2], supervision_options(with_options(options[-2:], command))))


def recipe_arguments(command: Any) -> Any:
    options = [
        click.argument("recipe", type=RecipeFile(), shell_complete=complete_recipe),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=_complete_key),
    ]
    return with_options(options, command)


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
    return with_options(options, command)


hooks_option = click.option(
    "--hooks",
    type=click.Choice(["auto", "none"]),
    default="auto",
    help="Whether the program's libraries are watched: a hang is found, its figures are shown, a Trainer saves at a stop and goes on after a restart [default: auto].",
)


def refuse_unwatched(context: click.Context) -> None:
    """Raises LaunchError where a limit for hangs is asked for, and nothing that would find one."""
    source = context.get_parameter_source("hang_timeout")
    is_asked = source is not None and source.name in GIVEN and context.params["hang_timeout"]
    if is_asked and context.params.get("no_python"):
        raise LaunchError(
            "--hang-timeout finds no hang with --no-python: an executable gives no sign that it moves",
            hint="leave --hang-timeout out, or start a Python program without --no-python",
        )
    if is_asked and context.params["hooks"] == "none":
        raise LaunchError(
            "--hang-timeout finds no hang with --hooks none: what shows that a program moves is left out",
            hint="leave one of the two out",
        )


def with_options(options: Sequence[Any], command: Any) -> Any:
    """The command with these options, in their order in its help."""
    for option in reversed(options):
        command = option(command)
    return command


MACHINE = ("nproc", "device", "nnodes", "node_rank", "rdzv_endpoint", "rank_table", "chip", "hbm")


def machine_of(given: Mapping[str, Any]) -> Machine:
    """What the command line says of ranks, nodes and cards; a command may have fewer of the options."""
    from launcher.jobs.options import Machine

    return Machine(**{name: given[name] for name in MACHINE if name in given})


def supervision_of(given: Mapping[str, Any]) -> Supervision:
    """What the command line says of how ranks are watched."""
    from launcher.planning.plan import Supervision

    return Supervision(
        max_restarts=given["max_restarts"],
        hang_timeout_s=given["hang_timeout"],
        grace_s=given["grace"],
        join_timeout_s=given["join_timeout"],
        start_method=given["start_method"],
    )


GIVEN = ("COMMANDLINE", "ENVIRONMENT")


def given(skip: Container[str], changed: Mapping[str, str] = {}, sources: Container[str] = GIVEN) -> list[str]:
    """The options of this command that were given, on the command line or by a variable, as arguments for another run."""
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
