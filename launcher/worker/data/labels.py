"""The label column of each split as numbers: which value is which label, how often each occurs, and what looks wrong.

Labels are numbered from 0, in the order of `model.label_names`. Without names a column that is not numbered from 0 is
numbered in order, and a note says so, where the recipe's `num_labels` leaves one reading only.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from launcher.errors import LaunchError
from launcher.messages import Message, joined, listed, plural

MAX_LISTED = 64
"""More different values than this are not offered as label names."""
_UNLABELLED = (-1, -100)
"""What data sets on the hub write where a row has no label, and what torch's loss leaves out."""


@dataclass(frozen=True)
class Column:
    """The label column of one split."""

    values: pa.ChunkedArray
    split: str
    """As the recipe calls it: test, train[:90%]."""
    name: str
    where: str
    """The file or data set, the split and the column, for messages."""
    class_names: tuple[str, ...] | None = None
    """Where the data set says itself what its numbers stand for."""
    place: Callable[[int], tuple[str, str | None]] = lambda row: (Message("row {row}", row=row), None)
    """Where one row is, for messages, and what its file has where nothing was read."""
    no_labels_hint: str = "name a split that has labels"

    def at(self, row: int) -> str:
        return Message("{place}: column {name!r}", place=self.place(row)[0], name=self.name)


@dataclass(frozen=True)
class Numbered:
    """Every split's labels, numbered alike."""

    names: tuple[str, ...]
    labels: dict[str, np.ndarray]
    """int64, by the splits' names."""
    notes: tuple[str, ...]

    def counts(self, name: str) -> tuple[int, ...]:
        """Rows of each label."""
        return tuple(np.bincount(self.labels[name], minlength=len(self.names)).tolist())


def number(
    columns: Mapping[str, Column], *, names: Sequence[str] | None, num_labels: int, trained: bool = False
) -> Numbered:
    """Number the labels of all splits alike.

    Args:
        columns: by the splits' names: train, eval.
        names: one a label, where the recipe or the trained weights tell them.
        num_labels: how many labels there are.
        trained: the weights have their numbers already, so nothing is numbered by what these rows happen to hold.

    Raises:
        LaunchError: a row without a label, or a value that is none; the hint is what the recipe would have to say.
    """
    parts = {name: _plain(column, names or ()) for name, column in columns.items()}
    notes: tuple[str, ...] = ()
    first = next(iter(columns.values()))
    if names is None and first.class_names is not None and len(first.class_names) == num_labels:
        names = first.class_names
    if names is None:
        parts = _whole_numbers(parts)
        plain = tuple(map(str, range(num_labels)))
        names, notes = (plain, ()) if trained else _found(columns, parts, num_labels)
    elif _meant(names) is None and not _occurs(names, parts.values()):
        parts = _whole_numbers(parts)
    order = _Order(tuple(names), tuple(parts.values()), trained)
    labels = {name: _numbers(columns[name], part, order) for name, part in parts.items()}
    return Numbered(order.names, labels, notes)


@dataclass(frozen=True)
class _Order:
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
        there = [str(v) for v in sorted({v for part in self.parts for v in pc.unique(part).to_pylist()})]
        if (
            _occurs(self.names, self.parts)
            and not self.is_plain
            and (_is_text(self.parts[0]) or _meant(self.names) is not None)
        ):
            there = [*self.names, *(name for name in there if name not in self.names)]
        if len(there) > MAX_LISTED:
            return Message("check that data.label is the column with the label")
        count = f"model.num_labels={len(there)} " if len(there) != len(self.names) else ""
        word = shlex.quote(f"model.label_names={json.dumps(there, ensure_ascii=False)}")
        return Message(
            "remove these rows, or list every label that the data has: {count}{word}", count=count, word=word
        )


def _plain(column: Column, names: Sequence[str] = ()) -> pa.ChunkedArray:
    """The column as int64 or text, no row empty. Booleans are texts where `names` are true and false."""
    values, kind = column.values, column.values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_null(kind) or (len(values) and values.null_count == len(values)):
        raise LaunchError(
            Message("{where} is empty in every row: this split has no labels", where=column.where),
            hint=column.no_labels_hint,
        )
    if pa.types.is_floating(kind) and pc.any(pc.is_nan(values)).as_py():
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = pc.if_else(pc.equal(pc.utf8_trim_whitespace(values), ""), pa.scalar(None, kind), values)
    if values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        raise missing(*column.place(row), column.name, values.null_count)
    if pa.types.is_floating(kind):
        return _from_floats(column, values)
    if pa.types.is_boolean(kind) and {"true", "false"} == {name.lower() for name in names}:
        false, true = sorted(names, key=str.lower)
        return pc.if_else(values, pa.scalar(true, pa.large_string()), pa.scalar(false, pa.large_string()))
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return _int64(column, values)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return values.cast(pa.large_string())
    if "json" in str(kind):  # what datasets makes of a column of several kinds
        raise LaunchError(
            "{where} has values of several kinds, such as numbers beside texts",
            hint="write all labels alike",
            where=column.where,
        )
    raise LaunchError(
        "{where} is {kind}, not numbers or names of labels",
        hint="a row has one label: a whole number, or a text",
        where=column.where,
        kind=kind,
    )


def _from_floats(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """CSV and data frames write 4 as 4.0 where a row of the column was once empty."""
    is_whole = pc.and_(pc.is_finite(values), pc.equal(pc.floor(values), values))
    if pc.all(is_whole).as_py():
        return _int64(column, values)
    row = pc.index(is_whole, False).as_py()
    raise LaunchError(
        "{at} is float64, not whole numbers: {as_py}",
        hint="labels are trained here and no scores: make classes of them, as whole numbers from 0",
        at=column.at(row),
        as_py=values[row].as_py(),
    )


def _int64(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        largest = pc.max(pc.abs(values)).as_py()
        raise LaunchError(
            "{where} has the label {largest}, which is beyond 64 bits",
            hint="check that data.label is the column with the label",
            where=column.where,
            largest=largest,
        ) from None


def missing(at: str, written: str | None, name: str, count: int) -> LaunchError:
    """Of rows without a text or a label: the first of them, and what its file has there."""
    rows = Message(" ({count} such rows)", count=count) if count > 1 else ""
    if written is None:
        return LaunchError(
            "{at} has no {name!r}{rows}", hint="remove these rows from the data", at=at, name=name, rows=rows
        )
    return LaunchError(
        "{at} has {written!r} as its {name!r}, which CSV reads as a missing value{rows}",
        hint="remove these rows; or write the data as JSON lines (data.path=json), where it is a text",
        at=at,
        written=written,
        name=name,
        rows=rows,
    )


def _is_text(values: pa.ChunkedArray) -> bool:
    return pa.types.is_large_string(values.type)


def _occurs(names: Sequence[str], parts: Iterable[pa.ChunkedArray]) -> bool:
    """Whether any text of the data is one of the names."""
    known = pa.array(names, pa.large_string())
    return any(_is_text(part) and pc.any(pc.is_in(part, value_set=known)).as_py() for part in parts)


def _numbers(column: Column, values: pa.ChunkedArray, order: _Order) -> np.ndarray:
    """Each value's place among the names. Numbers are places already, unless the names are numbers themselves."""
    names, classes = order.names, column.class_names
    if classes is not None and not _is_text(values) and set(classes) == set(names):
        places = [names.index(name) for name in classes]
        found = _looked_up(values, list(range(len(classes))), places)
    elif _is_text(values):
        found = pc.index_in(values, value_set=pa.array(names, pa.large_string()))
    else:
        found = pc.index_in(values, value_set=pa.array(_meant(names) or range(len(names)), pa.int64()))
    if found.null_count:
        raise _unknown(column, values, np.flatnonzero(pc.is_null(found).to_numpy()), order)
    return found.to_numpy().astype(np.int64)


def _looked_up(values: pa.ChunkedArray, these: Sequence[int], those: Sequence[int]) -> pa.ChunkedArray:
    return pc.take(pa.array(those, pa.int32()), pc.index_in(values, value_set=pa.array(these, pa.int64())))


def _meant(names: Iterable[str]) -> list[int] | None:
    """The numbers that names are, where all are whole ones: label_names of 1 to 5 name the values 1 to 5."""
    names = list(names)
    if not all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len(set(numbers)) == len(numbers) else None


def _whole_numbers(parts: dict[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
    """Text that is whole numbers in every row, as numbers."""
    texts = [part for part in parts.values() if _is_text(part)]
    if not all(pc.all(pc.match_substring_regex(part, r"^-?\d{1,18}$")).as_py() for part in texts):
        return parts
    return {name: part.cast(pa.int64()) for name, part in parts.items()}


def _found(
    columns: Mapping[str, Column], parts: Mapping[str, pa.ChunkedArray], num_labels: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names for the values that occur, in order, where `num_labels` leaves one reading only; and what to tell of it."""
    plain = tuple(map(str, range(num_labels)))
    texts = [name for name, part in parts.items() if _is_text(part)]
    if texts and len(texts) < len(parts):
        value = parts[texts[0]][0].as_py()
        raise LaunchError(
            "{at} holds the text {value!r}, and the other split has numbers",
            hint="write both alike",
            at=columns[texts[0]].at(0),
            value=value,
        )
    found: list[Any] = sorted({v for part in parts.values() for v in pc.unique(part).to_pylist()})
    if not texts and (found[0] < 0 or found[-1] < num_labels):  # in order already, or refused with its row
        return plain, ()
    names = tuple(map(str, found))
    if len(names) != num_labels and not texts and found[0] >= 1 and found[-1] == num_labels:
        names = tuple(str(i + 1) for i in range(num_labels))
    if len(names) == num_labels:
        return names, (_numbered_note(names), *_alike_note(names))
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
    there = (
        Message("{num_names} different labels are there: {shown}", num_names=len(names), shown=shown)
        if len(names) > 1
        else Message("every row has that label")
    )
    raise LaunchError(f"{at} {what}; {there}", hint=hint)


def _first_outside(
    columns: Mapping[str, Column], parts: Mapping[str, pa.ChunkedArray], num_labels: int
) -> tuple[str, str]:
    """The first row whose value is no number from 0 to num_labels - 1, and what it has."""
    run = Message(
        "but model.num_labels is {num_labels}, so labels run from 0 to {last}",
        num_labels=num_labels,
        last=num_labels - 1,
    )
    for name, part in parts.items():
        if _is_text(part):
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


def _unknown(column: Column, values: pa.ChunkedArray, rows: np.ndarray, order: _Order) -> LaunchError:
    """Of values that have no number: what they are, where, and what to do."""
    row = int(rows[0])
    value, more = values[row].as_py(), Message(" ({num_rows} such rows)", num_rows=len(rows)) if len(rows) > 1 else ""
    if value in _UNLABELLED and len(rows) == len(values) == pc.sum(pc.equal(values, value)).as_py():
        return LaunchError(
            Message(
                "{where} has label {value} in every row, which marks rows without a label: this split has no labels",
                where=column.where,
                value=value,
            ),
            hint=column.no_labels_hint,
        )
    hint = order.fix()
    if value in _UNLABELLED:
        what: str = Message("label {value}, which marks rows without a label", value=value)
    elif isinstance(value, str):
        what = Message("the text {value!r}, which is none of the labels {shown}", value=value, shown=order.shown)
        close = [name for name in order.names if name.strip().lower() == value.strip().lower()]
        hint = Message("write it as {close!r} in the data", close=close[0]) if close else hint
    elif order.is_plain or _meant(order.names) is None:
        count = len(order.names)
        said = "labels" if order.is_plain else "names"
        what = Message(
            "label {value}, but there are {count} {text}, and labels run from 0 to {last}",
            value=value,
            count=count,
            text=said,
            last=count - 1,
        )
    else:
        what = Message("label {value}, which is none of the labels {shown}", value=value, shown=order.shown)
    return LaunchError(Message("{at} has {what}{more}", at=column.at(row), what=what, more=more), hint=hint)


def notes(numbered: Numbered, columns: Mapping[str, Column]) -> list[str]:
    """What the user should know about labels that nothing can be learned about, or nothing measured."""
    counts = {name: numbered.counts(name) for name in columns}
    found: list[str] = []
    for name, column in columns.items():
        there = [i for i, count in enumerate(counts[name]) if count]
        absent = [i for i, count in enumerate(counts[name]) if not count]
        if len(there) == 1:
            said = Message(
                "every row of split {split!r} has label {place}",
                split=column.split,
                place=_called(there, numbered.names),
            )
            found.append(Message("{text}, so there is nothing to tell apart", text=said) if name == "train" else said)
        if absent:
            verb = plural(
                "{absent} never occurs",
                "{absent} never occur",
                count=len(absent),
                absent=_called(absent, numbered.names),
            )
            what = (
                plural("nothing is learned of it", "nothing is learned of them", count=len(absent))
                if name == "train"
                else Message("macro averages leave out what is never predicted either")
            )
            found.append(
                plural(
                    "split {split!r}: label {verb}: {what}",
                    "split {split!r}: labels {verb}: {what}",
                    count=len(absent),
                    split=column.split,
                    verb=verb,
                    what=what,
                )
            )
    if {"train", "eval"} <= counts.keys():
        new = [i for i, count in enumerate(counts["eval"]) if count and not counts["train"][i]]
        if new:
            rows = sum(counts["eval"][i] for i in new)
            found.append(
                plural(
                    "{count} row of split {split!r} has label {new}, which no training row has",
                    "{count} rows of split {split!r} have label {new}, which no training row has",
                    count=rows,
                    split=columns["eval"].split,
                    new=_called(new, numbered.names),
                )
            )
    return found


def _called(labels: Sequence[int], names: Sequence[str]) -> str:
    """1 to 4; 0 (bad) and 2 (good)."""
    if len(labels) > 2 and labels[-1] - labels[0] == len(labels) - 1:
        return Message("{label} to {labels}", label=labels[0], labels=labels[-1])
    said = [f"{i}" if names[i] == str(i) else f"{i} ({names[i]})" for i in labels]
    return listed([*said[:6], Message("{count} more", count=len(said) - 6)] if len(said) > 7 else said)


def repeated(train: pa.ChunkedArray, held: pa.ChunkedArray) -> int:
    """Evaluation rows whose text is a training row's too. The table that is looked up is the evaluation's alone."""
    held, train = held.cast(pa.large_string()), train.cast(pa.large_string())
    both = pc.unique(train.filter(pc.is_in(train, value_set=held.combine_chunks())))
    return int(pc.sum(pc.is_in(held, value_set=both)).as_py() or 0)
