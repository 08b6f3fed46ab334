"""A label column as it was read: whole numbers or text, no row empty."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from launcher.errors import LaunchError
from launcher.messages import Message


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


def plain_values(column: Column, names: Sequence[str] = ()) -> pa.ChunkedArray:
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
        hint="a row has one label: a whole number, or a text; rows with lists of labels need model.problem_type=multi_label_classification",
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
        hint="values are learnt with model.problem_type=regression; as classes they are whole numbers from 0",
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


def is_text(values: pa.ChunkedArray) -> bool:
    return pa.types.is_large_string(values.type)


def occurs(names: Sequence[str], parts: Iterable[pa.ChunkedArray]) -> bool:
    """Whether any text of the data is one of the names."""
    known = pa.array(names, pa.large_string())
    return any(is_text(part) and pc.any(pc.is_in(part, value_set=known)).as_py() for part in parts)


def as_numbers(names: Iterable[str]) -> list[int] | None:
    """The numbers that names are, where all are whole ones: label_names of 1 to 5 name the values 1 to 5."""
    names = list(names)
    if not all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len(set(numbers)) == len(numbers) else None


def whole_numbers(parts: dict[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
    """Text that is whole numbers in every row, as numbers."""
    texts = [part for part in parts.values() if is_text(part)]
    if not all(pc.all(pc.match_substring_regex(part, r"^-?\d{1,18}$")).as_py() for part in texts):
        return parts
    return {name: part.cast(pa.int64()) for name, part in parts.items()}
