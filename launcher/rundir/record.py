"""A record by its declaration: how the kinds in records.py are checked, read and written."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, TypeVar

from launcher.messages import Message

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """For type checkers alone."""
        return lambda record: record


R = TypeVar("R", bound="Record")


_YEAR_5138 = 1e11
"""Seconds. A time beyond it is none, and no calendar goes much further."""


def _is_time(value: Any) -> bool:
    return type(value) in (float, int) and 0 <= value < _YEAR_5138


def is_scalar(value: Any) -> bool:
    """Whether it is a number that can be shown: no bool, NaN or infinity."""
    return type(value) in (float, int) and -sys.float_info.max < value < sys.float_info.max


def _is_series(value: Any) -> bool:
    """A million events have lists of as many ranks as there are: those of one kind are looked at without a loop."""
    if not isinstance(value, list):
        return False
    kinds = set(map(type, value))
    if kinds == {float}:
        return all(map(math.isfinite, value))
    if kinds == {int}:
        return -sys.float_info.max < min(value) and max(value) < sys.float_info.max
    return all(map(is_scalar, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_FITS: dict[str, Callable[[Any], bool]] = {
    "int": is_scalar,
    "float": is_scalar,
    "str": _is_text,
    "bool": lambda value: isinstance(value, bool),
    "list[int]": _is_series,
    "list[float]": _is_series,
    "list[str]": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "list[Any]": lambda value: isinstance(value, list),
    "dict[str, Any]": lambda value: isinstance(value, dict),
}
"""How a field is declared → what it takes. A number with a fraction is one for a count too: nothing but showing is done
with it."""


class _Layout(NamedTuple):
    """What is known of a kind of record by its declaration."""

    by_key: Mapping[str, tuple[str, Callable[[Any], bool]]]
    """Key in the file → the field's name and what it takes."""
    needed: frozenset[str]
    """Names without which it is none of its kind."""
    order: tuple[tuple[str, str, bool], ...]
    """Name, key in the file, and whether null is written."""
    names: frozenset[str]
    needed_names: frozenset[str]
    """What its maker may give, and has to."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _Declared:
    """What type checkers take for the base of dataclasses."""


class Record(_Declared):
    """A frozen dataclass by its declaration. dataclasses itself would take 20 ms to make thirty of them, in each process;
    here a class holds its defaults, and an object what was given."""

    keys_of: ClassVar[Mapping[str, str]] = {}
    """Fields whose keys in the file have other names."""
    nulls: ClassVar[tuple[str, ...]] = ()
    """Fields that are written as null where there is nothing to say; others are left out then."""
    also_needed: ClassVar[tuple[str, ...]] = ()
    """Inherited fields without which a record is none of its kind, beside its own fields without a default."""
    declared: ClassVar[Mapping[str, str]] = {}
    """Its fields, with their types as written."""
    layout: ClassVar[_Layout]
    more: Mapping[str, Any] = MappingProxyType({})
    """What is not a field here, by key, in the file's order: scores, facts, what another version wrote."""
    keys: tuple[str, ...] | None = None
    """The keys as they stand in the file; None where that is the order of the fields."""
    wrong: tuple[str, ...] = ()
    """Keys whose values have another type than they have here. They are in `more`."""

    def __init_subclass__(cls) -> None:
        own = {name: kind for name, kind in cls.__annotations__.items() if not kind.startswith("ClassVar")}
        cls.declared = {**cls.declared, **own}
        keys = {name: cls.keys_of.get(name, name) for name in cls.declared}
        by_key = {keys[name]: (name, _check(name, kind)) for name, kind in cls.declared.items()}
        order = [(name, key, name in cls.nulls) for name, key in keys.items()]
        if kind := getattr(cls, "kind", ""):
            by_key["event"] = ("kind", kind.__eq__)
            order.insert(1, ("kind", "event", True))
        needed = frozenset(name for name in cls.declared if not hasattr(cls, name))
        names = frozenset((*cls.declared, "more", "keys", "wrong"))
        cls.layout = _Layout(by_key, needed.union(cls.also_needed), tuple(order), names, needed)

    def __init__(self, **values: Any) -> None:
        layout = self.layout
        if not (layout.needed_names <= values.keys() <= layout.names):
            raise TypeError(
                Message(
                    "{kind} has {declared}, not {values}",
                    kind=type(self).__name__,
                    declared=", ".join(self.declared),
                    values=", ".join(values),
                )
            )
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(Message("{kind}.{name}: a record is not changed", kind=type(self).__name__, name=name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and type(other) is type(self) and other.to_json() == self.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_json()})"

    def to_json(self) -> dict[str, Any]:
        """The JSON object that it is in the file."""
        if self.keys is None:
            return self._in_order()
        by_key = self.layout.by_key
        return {key: self.more[key] if key in self.more else getattr(self, by_key[key][0]) for key in self.keys}

    def has(self, key: str) -> bool:
        """Whether it says something under a key, be it null."""
        return key in self.to_json()

    def _in_order(self) -> dict[str, Any]:
        values, given = {}, self.__dict__
        for name, key, is_written in self.layout.order:
            value = given.get(name)
            if value is not None:
                values[key] = value
            elif is_written:
                values[key] = getattr(self, name)
        values.update(self.more)
        return values


def _check(name: str, kind: str) -> Callable[[Any], bool]:
    return _is_time if name == "time" else _FITS[kind.removesuffix(" | None")]


def read(record: type[R], value: Mapping[str, Any]) -> R:
    """A record of a JSON object that has what it needs."""
    made = record.__new__(record)
    given, more, wrong = made.__dict__, {}, []
    by_key = record.layout.by_key
    for key, item in value.items():
        known = by_key.get(key)
        if known is None:
            more[key] = item
        elif known[1](item):
            given[known[0]] = item
        else:
            more[key] = item
            if item is not None:
                wrong.append(key)
    given["more"], given["keys"] = more, tuple(value)
    if wrong:
        given["wrong"] = tuple(wrong)
    return made
