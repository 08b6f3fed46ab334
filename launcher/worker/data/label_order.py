"""The labels in the order of their numbers, where the recipe names none too; and what to do about values that are none."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from launcher.data.labels import UNLABELLED
from launcher.errors import LaunchError
from launcher.messages import Message, joined
from launcher.worker.data.label_values import Column, as_numbers, is_text, occurs

MAX_LISTED = 64
"""More different values than this are not offered as label names."""


@dataclass(frozen=True)
class Order:
    """The labels in the order of their numbers, and what a fix would have to list."""

    names: tuple[str, ...]
    parts: tuple[pa.ChunkedArray, ...]
    trained: bool

    @property
    def is_plain(self) -> bool:
        return self.names == tuple(map(str, range(len(self.names))))

    @property
    def shown(self) -> str:
        return ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")

    def fix(self) -> str:
        """What to do about values that are none of the names."""
        if self.trained:
            return Message(
                "the weights know {num_names} labels: evaluate rows that have these", num_names=len(self.names)
            )
        labels = [str(v) for v in sorted({v for part in self.parts for v in pc.unique(part).to_pylist()})]
        if (
            occurs(self.names, self.parts)
            and not self.is_plain
            and (is_text(self.parts[0]) or as_numbers(self.names) is not None)
        ):
            labels = [*self.names, *(name for name in labels if name not in self.names)]
        if len(labels) > MAX_LISTED:
            return Message("check that data.label is the column with the label")
        count = f"model.num_labels={len(labels)} " if len(labels) != len(self.names) else ""
        word = shlex.quote(f"model.label_names={json.dumps(labels, ensure_ascii=False)}")
        return Message(
            "remove these rows, or list every label that the data has: {count}{word}", count=count, word=word
        )


def named_by_values(
    columns: Mapping[str, Column], parts: Mapping[str, pa.ChunkedArray], num_labels: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names for the values that occur, in order, where `num_labels` leaves one reading only; and what to tell of it."""
    plain = tuple(map(str, range(num_labels)))
    texts = [name for name, part in parts.items() if is_text(part)]
    if texts and len(texts) < len(parts):
        value = parts[texts[0]][0].as_py()
        raise LaunchError(
            "{at} holds the text {value!r}, and the other split has numbers",
            hint="write both alike",
            at=columns[texts[0]].at(0),
            value=value,
        )
    values: list[Any] = sorted({v for part in parts.values() for v in pc.unique(part).to_pylist()})
    if not texts and (values[0] < 0 or values[-1] < num_labels):  # in order already, or refused with its row
        return plain, ()
    names = tuple(map(str, values))
    if len(names) != num_labels and not texts and values[0] >= 1 and values[-1] == num_labels:
        names = tuple(str(i + 1) for i in range(num_labels))
    if len(names) == num_labels:
        return names, (_numbered_note(names), *_alike_note(names))
    raise _miscounted(columns, parts, names, num_labels)


def _miscounted(
    columns: Mapping[str, Column], parts: Mapping[str, pa.ChunkedArray], names: Sequence[str], num_labels: int
) -> LaunchError:
    """Of data with another number of labels than the recipe says: the first row outside, and what to do."""
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    if len(names) == 1:
        hint: str = Message("name data with two labels or more")
    elif len(names) > MAX_LISTED:
        hint = Message("check that data.label is the column with the label")
    elif alike := _alike(names):
        hint = Message(
            "write {alike!r} as {first_alike!r} in the data if they are one label; or set model.num_labels={num_names}",
            alike=alike[1],
            first_alike=alike[0],
            num_names=len(names),
        )
    else:
        more = (
            Message(" (or name all {num_labels} labels in model.label_names)", num_labels=num_labels)
            if len(names) < num_labels
            else ""
        )
        hint = Message("set model.num_labels={num_names}{more}", num_names=len(names), more=more)
    at, what = _first_outside(columns, parts, num_labels)
    detail = (
        Message("{num_names} different labels are there: {shown}", num_names=len(names), shown=shown)
        if len(names) > 1
        else Message("every row has that label")
    )
    return LaunchError(f"{at} {what}; {detail}", hint=hint)


def _first_outside(
    columns: Mapping[str, Column], parts: Mapping[str, pa.ChunkedArray], num_labels: int
) -> tuple[str, str]:
    """The first row whose value is not a number from 0 to num_labels - 1, and what it has."""
    run = Message(
        "but model.num_labels is {num_labels}, so labels run from 0 to {last}",
        num_labels=num_labels,
        last=num_labels - 1,
    )
    for name, part in parts.items():
        if is_text(part):
            return columns[name].at(0), Message(
                "holds the text {as_py!r}, and model.num_labels is {num_labels}",
                as_py=part[0].as_py(),
                num_labels=num_labels,
            )
        if pc.max(part).as_py() >= num_labels:
            row = pc.index(pc.greater_equal(part, num_labels), True).as_py()
            return columns[name].at(row), Message("has label {as_py}, {run}", as_py=part[row].as_py(), run=run)
    raise AssertionError("only asked where one is outside")


def _alike(names: Sequence[str]) -> tuple[str, str] | None:
    """Two labels that differ in spaces or in upper and lower case only."""
    seen: dict[str, str] = {}
    for name in sorted(names, key=lambda n: n != n.strip()):
        first = seen.setdefault(name.strip().casefold(), name)
        if first != name:
            return first, name
    return None


def _alike_note(names: Sequence[str]) -> tuple[str, ...]:
    alike = _alike(names)
    return (
        (
            Message(
                "the labels {alike!r} and {second_alike!r} differ in spaces or case only, and are two labels",
                alike=alike[0],
                second_alike=alike[1],
            ),
        )
        if alike
        else ()
    )


def _numbered_note(names: Sequence[str]) -> str:
    pairs: list[str] = [Message("{name} is {index}", name=name, index=i) for i, name in enumerate(names)]
    shown = joined(pairs if len(pairs) <= 8 else [*pairs[:3], "...", pairs[-1]])
    return Message(
        "labels are numbered in order: {shown}; model.label_names would give them another order", shown=shown
    )


def unknown_label(column: Column, values: pa.ChunkedArray, rows: np.ndarray, order: Order) -> LaunchError:
    """Of values that have no number: what they are, where, and what to do."""
    row = int(rows[0])
    value, more = values[row].as_py(), Message(" ({num_rows} such rows)", num_rows=len(rows)) if len(rows) > 1 else ""
    if value in UNLABELLED and len(rows) == len(values) == pc.sum(pc.equal(values, value)).as_py():
        return LaunchError(
            Message(
                "{where} has label {value} in every row, which marks rows without a label: this split has no labels",
                where=column.where,
                value=value,
            ),
            hint=column.no_labels_hint,
        )
    hint = order.fix()
    if value in UNLABELLED:
        what: str = Message("label {value}, which marks rows without a label", value=value)
    elif isinstance(value, str):
        what = Message("the text {value!r}, which is none of the labels {shown}", value=value, shown=order.shown)
        close = [name for name in order.names if name.strip().lower() == value.strip().lower()]
        hint = Message("write it as {close!r} in the data", close=close[0]) if close else hint
    elif order.is_plain or as_numbers(order.names) is None:
        count = len(order.names)
        noun = "labels" if order.is_plain else "names"
        what = Message(
            "label {value}, but there are {count} {text}, and labels run from 0 to {last}",
            value=value,
            count=count,
            text=noun,
            last=count - 1,
        )
    else:
        what = Message("label {value}, which is none of the labels {shown}", value=value, shown=order.shown)
    return LaunchError(Message("{at} has {what}{more}", at=column.at(row), what=what, more=more), hint=hint)
