"""What a format of conversations is, and what most of them have in common.

A conversation is `{"messages": [{"role", "content", …}, …], "tools": [{…}, …]}` without `tools` where there are none, or
`{"text": …}`. Roles are system, user, assistant and tool. A message whose `train` is false is not trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from launcher.messages import Message

Row = Mapping[str, Any]
Conversation = dict[str, Any]


class RowError(Exception):
    """What is wrong with a row, in one sentence that follows its place; and what to do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


@dataclass(frozen=True)
class Columns:
    """What the recipe says of a set's columns."""

    names: Mapping[str, str] = field(default_factory=dict)
    """`data.columns`: a format's own key → the name in the data."""
    prompt: str | None = None
    """`data.prompt`: how columns become the user's message."""

    def name(self, key: str, *defaults: str, row: Row | None = None) -> str:
        """The name of a column: as the recipe says, else the first of `defaults` that the row has, else the first."""
        if key in self.names:
            return self.names[key]
        return next((one for one in defaults if row is not None and one in row), defaults[0] if defaults else key)


class Format(Protocol):
    """A format of rows. One file in this folder, and one row in launcher.recipe.formats."""

    @property
    def interface(self) -> int:
        """INTERFACE of the launcher that it was written for."""

    @property
    def name(self) -> str:
        """As `data.format` says it."""

    @property
    def keys(self) -> Mapping[str, str]:
        """Keys of `data.columns`, and what each stands for."""

    def fits(self, row: Row, columns: Columns) -> bool:
        """Whether a row looks like one of this format."""

    def has_columns(self, row: Row, columns: Columns) -> bool:
        """Whether its columns do, by their names alone: asked where no row fits, which has mistakes then."""

    def reader(self, row: Row, columns: Columns) -> Callable[[Row], Conversation]:
        """From rows like this one to conversations. The function raises RowError."""

    def answered(self, row: Row, columns: Columns) -> Row:
        """The row with some answer, where the format has a column for it: rows that are to be answered have none."""


SOME_ANSWER = "."
FIX_ROW = Message("correct these rows, or remove them")


def required(row: Row, name: str) -> Any:
    """A column's value that is not null. Raises RowError."""
    value = row.get(name)
    if value is None:
        raise missing(row, name)
    return value


def missing(row: Row, name: str) -> RowError:
    if name in row:
        return RowError(Message("{name!r} is empty", name=name), FIX_ROW)
    others = ", ".join(map(str, list(row)[:8]))
    what = Message("no column {name!r}; there is {others}", name=name, others=others or Message("nothing"))
    return RowError(what, Message("name the columns in data.columns, and their format in data.format"))


def text(value: Any, name: str) -> str:
    """A value that is text. Raises RowError."""
    if isinstance(value, str):
        return value
    raise RowError(Message("{name!r} is {kind} and not text", name=name, kind=kind(value)), FIX_ROW)


def filled_text(row: Row, name: str) -> str:
    """A column with text that is not blank. Raises RowError."""
    value = text(required(row, name), name)
    if not value.strip():
        raise RowError(Message("{name!r} is empty", name=name), FIX_ROW)
    return value


def optional_text(row: Row, name: str) -> str:
    value = row.get(name)
    return "" if value is None else text(value, name)


_KINDS = {str: "text", dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}


def kind(value: Any) -> str:
    """As JSON calls it."""
    return _KINDS.get(type(value), "null" if value is None else type(value).__name__)


def parsed(value: Any, name: str) -> Any:
    """A value, or what it holds as JSON, where it is text. Raises RowError."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError(Message("{name!r} is not JSON: {error}", name=name, error=error), FIX_ROW) from None


def unpacked(value: Any) -> Any:
    """An object that is written as JSON, as datasets keeps those of lists of unlike objects; else the value."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


SYSTEM = ("system", "system_prompt")
"""Names that a column with the system message may have."""


def system_messages(row: Row, name: str) -> list[dict[str, Any]]:
    """The system message of a column, where there is one."""
    content = optional_text(row, name)
    return [{"role": "system", "content": content}] if content else []


def history(row: Row, name: str) -> list[dict[str, Any]]:
    """Earlier turns: a list of pairs of a question and its answer. Raises RowError."""
    pairs = parsed(row.get(name) or [], name)
    if not isinstance(pairs, list):
        raise RowError(_pairs(name, pairs), FIX_ROW)
    turns: list[dict[str, Any]] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            raise RowError(_pairs(name, pair), FIX_ROW)
        turns += ({"role": role, "content": one} for role, one in zip(("user", "assistant"), pair, strict=True))
    return turns


def _pairs(name: str, value: Any) -> Message:
    return Message(
        "{name!r} is a list of [question, answer], and holds {value}", name=name, value=json.dumps(value)[:60]
    )


_COLUMN = re.compile(r"\{(\w+)\}")


def prompted(template: str, row: Row) -> str:
    """`data.prompt` with the row's columns. Raises RowError."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in row:
            raise RowError(
                Message("no column {name!r}, which data.prompt names", name=match[1]),
                Message("correct data.prompt; columns there are {names}", names=", ".join(map(str, row))),
            )
        return optional_text(row, match[1])

    content = _COLUMN.sub(value, template)
    if not content.strip():
        raise RowError(Message("data.prompt leaves nothing of this row"), FIX_ROW)
    return content


def refuse_media(row: Row) -> None:
    """Raises RowError where a row holds more than text."""
    for name in ("images", "image", "videos", "audios"):
        if row.get(name):
            raise RowError(
                Message("{name!r} holds {name}, and text alone is trained", name=name),
                Message("remove the rows with {name}", name=name),
            )
