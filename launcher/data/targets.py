"""What a row's label is made of: the cells of one column or of several, as a label, as several, or as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.data.formats.base import FIX_ROW, RowError, kind
from launcher.messages import Message
from launcher.recipe.schema import RecipeSpec
from launcher.recipe.tasks.base import LABEL
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL, TAGS, VALUES

_FLAGS = {"0": False, "1": True, "false": False, "true": True}
_SHOWN = 40
"""Characters of a cell that a message shows."""


@dataclass(frozen=True)
class Targets:
    """How the cells of a recipe's label are read."""

    kind: str
    """One of launcher.recipe.tasks.table.TARGETS."""
    columns: Mapping[str, str]
    """The recipe's key of each → the column."""
    separator: str | None = None
    """What parts several in a cell."""

    @classmethod
    def of(cls, recipe: RecipeSpec) -> Targets:
        columns = recipe.task.label_columns(recipe.data)
        return cls(recipe.targets, columns, getattr(recipe.data, "label_separator", None))

    @property
    def has_one_cell(self) -> bool:
        """Whether a row's label is in one column."""
        return LABEL in self.columns

    def of_cell(self, name: str, value: Any) -> Any:
        """What a cell says: of several labels a list of them, or whether there is the column's; of numbers a list of them; else
        the label, as it is. Raises RowError.
        """
        if self.kind == VALUES:
            return self._numbers(name, value)
        if self.kind == TAGS:
            return _tags(name, value)
        if self.kind == MANY_LABELS:
            return self._labels(name, value) if self.has_one_cell else _flag(name, value)
        return _label(name, value) if self.kind == ONE_LABEL else value

    def of_row(self, cells: Mapping[str, Any]) -> list[Any]:
        """A row's labels, numbers of columns where each label has one; or its numbers.

        Args:
            cells: by the columns' names.

        Raises:
            RowError: one of them is none.
        """
        read = [self.of_cell(name, cells[name]) for name in self.columns.values()]
        if self.kind == MANY_LABELS and not self.has_one_cell:
            return [number for number, is_there in enumerate(read) if is_there]
        return [value for cell in read for value in cell]

    def _numbers(self, name: str, value: Any) -> list[float]:
        several = value if isinstance(value, list) else self._parted(value)
        if several is None:
            return [_number(name, value)]
        if not several or not self.has_one_cell:
            raise RowError(Message("{name!r} is {kind}, and not a number", name=name, kind=kind(value)), FIX_ROW)
        return [_number(name, one) for one in several]

    def _labels(self, name: str, value: Any) -> list[Any]:
        if self.separator is not None and (value is None or value != value):
            return []  # what readers of CSV make of an empty cell
        several = value if isinstance(value, list) else self._parted(value)
        if value is None:
            raise RowError(
                Message("{name!r} is empty", name=name), Message("write [] for a row without labels, or remove it")
            )
        if several is None and (self.separator is None or not isinstance(value, int)):
            raise RowError(
                Message("{name!r} is {kind} and not a list of labels", name=name, kind=kind(value)),
                Message("write a list; or say in data.label_separator what parts the labels in a cell"),
            )
        return [_name(name, one) for one in ([value] if several is None else several)]

    def _parted(self, value: Any) -> list[str] | None:
        if self.separator is None or not isinstance(value, str):
            return None
        return [part.strip() for part in value.split(self.separator) if part.strip()]


def _tags(name: str, value: Any) -> list[Any]:
    several = apart(value)
    if several is None or several == []:
        raise _empty(name)
    if not isinstance(several, list):
        raise RowError(
            Message("{name!r} is {kind}, and a list with a tag for each word is expected", name=name, kind=kind(value)),
            FIX_ROW,
        )
    return [_name(name, one) for one in several]


def words(name: str, value: Any) -> list[str]:
    """The words of a row. Raises RowError where they are none."""
    several = apart(value)
    if several is None or several == []:
        raise _empty(name)
    if isinstance(several, list) and all(isinstance(one, str) for one in several):
        return several
    raise RowError(
        Message("{name!r} is {kind}, and a list of words is expected", name=name, kind=kind(value)),
        Message("write a list of texts, or words with spaces between; or name another column as data.text"),
    )


def apart(value: Any) -> Any:
    """Words, or their tags, that stand in one cell with spaces between, as in CSV; any other value as it is."""
    return value.split() if isinstance(value, str) else value


def _label(name: str, value: Any) -> Any:
    if _is_blank(value):
        raise _empty(name)
    if isinstance(value, dict | list):
        raise RowError(
            Message("{name!r} is {kind}, not the name or number of a label", name=name, kind=kind(value)),
            Message("a row has one label: a whole number, or a text"),
        )
    return value


def _name(name: str, value: Any) -> Any:
    """One of several labels: a text or a whole number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RowError(
            Message("{name!r} has {value} among its labels", name=name, value=_shown(value)),
            Message("a label is a text or a whole number"),
        )
    return value


def _number(name: str, value: Any) -> float:
    _require_cell(name, value)
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or abs(number) > 3e38:  # what fp32 holds
        raise RowError(
            Message("{name!r} is {value}, and a number is expected", name=name, value=_shown(value)),
            Message("write numbers such as 3.5 there, with a point; or name another column"),
        )
    return number


def _flag(name: str, value: Any) -> bool:
    _require_cell(name, value)
    text = str(value).strip().lower()
    flag = _FLAGS.get(text.removesuffix(".0"))
    if flag is None:
        raise RowError(
            Message("{name!r} is {value}, and 0 or 1 is expected", name=name, value=_shown(value)),
            Message("write 1 where a row has the label, and 0 where it has not"),
        )
    return flag


def _require_cell(name: str, value: Any) -> None:
    """Raises RowError where a cell has nothing, or what readers of CSV make of that."""
    if _is_blank(value) or value != value:
        raise _empty(name)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _empty(name: str) -> RowError:
    return RowError(Message("{name!r} is empty", name=name), FIX_ROW)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
