"""What `submit` takes, by the table of clusters: an option for each cluster, and each one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from launcher.clusters import table
from launcher.clusters.options import Kind, Option
from launcher.errors import LaunchError
from launcher.messages import translated

if TYPE_CHECKING:
    from launcher.clusters.table import Cluster

COMMANDLINE = click.core.ParameterSource.COMMANDLINE
LAST = "as_json"
"""The option before which those of clusters stand."""


class ClusterOption(click.Option):
    """An option that a cluster has, made of the table's."""

    def __init__(self, *declarations: Any, kind: Kind, **settings: Any) -> None:
        super().__init__(*declarations, **settings)
        self.kind = kind

    def is_as(self, other: click.Parameter) -> bool:
        """Whether both mean the same to whoever types them."""
        names = (self.opts, self.secondary_opts)
        return isinstance(other, ClusterOption) and (other.kind, (other.opts, other.secondary_opts)) == (
            self.kind,
            names,
        )


def _settings(option: Option) -> dict[str, Any]:
    by_kind: Mapping[Kind, Mapping[str, Any]] = {
        "text": {},
        "count": {"type": click.IntRange(1)},
        "flag": {"is_flag": True},
        "switch": {"default": option.default},
        "list": {"multiple": True},
    }
    return {"kind": option.kind, "help": option.help, "metavar": option.metavar, **by_kind[option.kind]}


def _names(option: Option) -> list[str]:
    return [f"{option.name}/{option.off}" if option.kind == "switch" else option.name, option.value_key]


def _target_names(cluster: Cluster) -> list[str]:
    return [f"--{cluster.name}", _key(cluster)]


def _key(cluster: Cluster) -> str:
    return cluster.name.replace("-", "_")


def targets() -> list[Any]:
    """An option for each built-in cluster that has a queue, as decorators."""
    return [click.option(*_target_names(cluster), is_flag=True, help=cluster.help) for cluster in _built_in()]


def own() -> list[Any]:
    """The options of built-in clusters, as decorators; one that several have stands there once."""
    options = dict.fromkeys(option for cluster in _built_in() for option in cluster.options)
    return [click.option(*_names(option), cls=ClusterOption, **_settings(option)) for option in options]


def _built_in() -> list[Cluster]:
    return [cluster for cluster in table.built_in() if cluster.has_queue]


class QueueCommand(click.Command):
    """A command with an option for each cluster. Those of other packages are looked for once it is used: that takes longer
    than help of everything may."""

    is_complete = False

    def complete(self) -> list[click.Parameter]:
        """Its parameters, with what clusters of other packages add.

        Raises:
            LaunchError: one of their options is another's already.
        """
        if not self.is_complete:
            for cluster in table.of_packages():
                if cluster.has_queue:
                    _add(self.params, cluster)
            self.is_complete = True
        return self.params

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        self.complete()
        return super().make_context(info_name, args, parent, **extra)


def _add(params: list[click.Parameter], cluster: Cluster) -> None:
    target = click.Option(_target_names(cluster), is_flag=True, help=cluster.help)
    for option in (target, *(ClusterOption(_names(option), **_settings(option)) for option in cluster.options)):
        same = [param for param in params if param.name == option.name or {*param.opts} & {*option.opts}]
        if same and not (isinstance(option, ClusterOption) and all(map(option.is_as, same))):
            raise LaunchError(
                "cluster {cluster!r}: {option} is an option of submit already, with another meaning",
                hint="correct or uninstall the package that has this cluster",
                cluster=cluster.name,
                option=option.opts[-1],
            )
        if not same:
            params.insert(next(i for i, param in enumerate(params) if param.name == LAST), option)


def chosen(ctx: click.Context) -> Cluster:
    """The cluster that the options name.

    Raises:
        LaunchError: none or several, or an option for another one.
    """
    queues = table.queues()
    named = [cluster for cluster in queues if ctx.params[_key(cluster)]]
    names = [f"--{cluster.name}" for cluster in queues]
    if len(named) != 1:
        options = " and ".join(f"--{cluster.name}" for cluster in named)
        raise LaunchError(
            "{options}: a job goes to one of them" if named else "submit needs to know where to",
            hint="say {names} or {last}",
            options=options,
            names=", ".join(names[:-1]),
            last=names[-1],
        )
    _refuse_others(ctx, named[0], queues)
    return named[0]


def _refuse_others(ctx: click.Context, target: Cluster, queues: Sequence[Cluster]) -> None:
    """An option for another cluster would change nothing, and so is a mistake."""
    taken = _keys(target)
    given = [
        param
        for param in ctx.command.params
        if isinstance(param, ClusterOption)
        and param.name not in taken
        and ctx.get_parameter_source(param.name or "") is COMMANDLINE
    ]
    if given:
        takers = [_takers(param, queues) for param in given]
        raise LaunchError(
            "{options}: only for {clusters}",
            hint="leave it out",
            options=", ".join(param.opts[0] for param, taker in zip(given, takers, strict=True) if taker == takers[0]),
            clusters=takers[0],
        )


def _keys(cluster: Cluster) -> set[str]:
    return {option.value_key for option in cluster.options}


def _takers(param: click.Parameter, queues: Iterable[Cluster]) -> str:
    return " and ".join(f"--{cluster.name}" for cluster in queues if param.name in _keys(cluster))


def values(ctx: click.Context, cluster: Cluster) -> dict[str, Any]:
    """What was given of a cluster's own options, by their keys."""
    return {key: ctx.params[key] for key in (option.value_key for option in cluster.options)}


def headings() -> dict[str, dict[str, str]]:
    """Heading in the help → the options below it, by their keys, each with what its cluster says of it."""
    by_heading: dict[str, dict[str, str]] = {}
    for cluster in table.queues():
        by_heading.setdefault(cluster.heading, {}).update({o.value_key: translated(o.help) for o in cluster.options})
    return by_heading
