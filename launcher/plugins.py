"""Tables of the kinds of things that there are: those built in, and those that other packages add by entry points.

A package adds one by an entry point in the table's group, whose object says by `interface` for which version of the
table's interface it was written::

    [project.entry-points."ascend_launch.strategies"]
    mine = "my_package.strategy:MINE"

Nothing is imported before it is asked for, and installed packages are only looked through for a name that is not built
in, or where all names are listed: that takes longer than `--help` may.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from launcher.errors import LaunchError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


@dataclass(frozen=True)
class Table(Generic[T]):
    """Things of one kind by name."""

    kind: str
    """One word for a thing of it, as messages write it: strategy."""
    group: str
    """The group of entry points that adds to it: ascend_launch.strategies."""
    interface: int
    """The version of what its things must offer; theirs is an attribute `interface`."""
    built_in: Mapping[str, str]
    """Name → `module:attribute`, in the order in which they are listed. Another package cannot replace one of these."""

    def names(self) -> tuple[str, ...]:
        """Every name, those of other packages last. Looks through the installed packages, and imports none."""
        return (*self.built_in, *sorted(set(_entry_points(self.group)) - set(self.built_in)))

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in _entry_points(self.group)

    def load(self, name: str) -> T:
        """The thing of this name, imported when it is first asked for.

        Raises:
            LaunchError: there is none; or the package that has it cannot be imported, or was written for another version
                of the interface, and is named.
        """
        thing: T = _load(self.kind, self.group, self.interface, self.built_in.get(name), name)
        return thing


def load_object(place: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


@functools.cache
def load_part(kind: str, name: str, place: str) -> Any:
    """An instance of the class that a thing of a table names for ranks, made once, when a rank first asks for it.

    Raises:
        LaunchError: what `place`, `module:attribute`, names is not there.
    """
    try:
        return load_object(place)()
    except (ImportError, AttributeError) as error:
        raise LaunchError(
            "{kind} {name!r}: its part for ranks, {place}, cannot be loaded: {error}",
            hint="correct or update the package that has this {kind}",
            kind=kind,
            name=name,
            place=place,
            error=error,
        ) from error


@functools.cache
def _load(kind: str, group: str, interface: int, place: str | None, name: str) -> Any:
    if place is not None:
        return load_object(place)
    entry_points = _entry_points(group).get(name, ())
    if not entry_points:
        raise LaunchError(
            "there is no {kind} {name!r}",
            hint="install the package that has it (its entry point is in {group})",
            kind=kind,
            name=name,
            group=group,
        )
    if len(entry_points) > 1:
        raise LaunchError(
            "{kind} {name!r} is in {num_actual} packages: {actual}",
            hint="uninstall all but one of them",
            kind=kind,
            name=name,
            num_actual=len(entry_points),
            actual=", ".join(sorted(map(_package, entry_points))),
        )
    return _of_package(kind, entry_points[0], interface)


def _of_package(kind: str, point: EntryPoint, interface: int) -> Any:
    try:
        thing = point.load()
    except Exception as error:
        raise LaunchError(
            "{kind} {point!r}: package {value} cannot be imported: {type}: {error}",
            hint="correct or uninstall it; `python -c 'import {module}'` shows where it fails",
            kind=kind,
            point=point.name,
            value=_package(point),
            type=type(error).__name__,
            error=error,
            module=point.module,
        ) from error
    theirs = getattr(thing, "interface", None)
    if theirs != interface:
        raise LaunchError(
            "{kind} {point!r}: package {value} is for interface {theirs}, and this launcher has {interface}",
            hint="install a version of {package} for interface {interface}",
            kind=kind,
            point=point.name,
            value=_package(point),
            theirs=theirs,
            interface=interface,
            package=_package(point, with_version=False),
        )
    return thing


@functools.cache
def _entry_points(group: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Name → the entry points of installed packages that have it; a package that is on the path twice counts once."""
    from importlib.metadata import entry_points  # 20 ms, and more to look through the packages

    rows: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for point in entry_points(group=group):
        rows.setdefault(point.name, {})[_package(point, with_version=False), point.value] = point
    return {name: tuple(points.values()) for name, points in rows.items()}


def _package(point: EntryPoint, *, with_version: bool = True) -> str:
    if point.dist is None:
        return point.module
    return f"{point.dist.name} {point.dist.version}" if with_version else point.dist.name
