"""Rows with any number of labels, or with numbers, as arrays; and what is wrong with one, with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from launcher.data.formats.base import RowError
from launcher.data.targets import Targets
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.tasks.table import TAGS, VALUES
from launcher.worker.data.label_order import MAX_LISTED
from launcher.worker.data.label_values import as_numbers

NUM_SHOWN = 8


@dataclass(frozen=True)
class Cells:
    """The label columns of one split."""

    columns: Mapping[str, pa.ChunkedArray]
    """By their names."""
    targets: Targets
    place: Callable[[int], str]
    """Where one row is, for messages."""

    def rows(self) -> Iterator[list[Any]]:
        """What each row has.

        Raises:
            LaunchError: of the first row that is none.
        """
        values = [column.to_pylist() for column in self.columns.values()]
        for number, cells in enumerate(zip(*values, strict=True)):
            try:
                yield self.targets.of_row(dict(zip(self.columns, cells, strict=True)))
            except RowError as error:
                raise LaunchError(
                    Message("{place}: {what}", place=self.place(number), what=error.what), hint=error.hint
                ) from None


def numbered(
    cells: Mapping[str, Cells], *, names: Sequence[str] | None, num_labels: int
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of labels or values, and by split what its rows have: of each row the numbers of its labels, in order, or of
    its words' tags, or float64 of (rows, values).

    Args:
        cells: by the splits' names.
        names: one a label, where the recipe or the trained weights tell them.
        num_labels: how many labels, or values, there are.

    Raises:
        LaunchError: a row has something else.
    """
    names = tuple(names or map(str, range(num_labels)))
    split = {
        name: _values(part, num_labels) if part.targets.kind == VALUES else _labels(part, names)
        for name, part in cells.items()
    }
    return names, split


def _values(cells: Cells, count: int) -> np.ndarray:
    rows = list(cells.rows())
    for number, row in enumerate(rows):
        if len(row) != count:
            raise LaunchError(
                "{place}: has {found} numbers as its {name!r}, and the model gives {count}",
                hint="write as many in every row; or set model.num_labels={found}",
                place=cells.place(number),
                found=len(row),
                name=next(iter(cells.columns)),
                count=count,
            )
    return np.array(rows, np.float64).reshape(len(rows), count)


def _labels(cells: Cells, names: Sequence[str]) -> list[list[int]]:
    place_of: Callable[[Any], int | None] = _Places(names) if cells.targets.has_one_cell else int
    out: list[list[int]] = []
    for number, row in enumerate(cells.rows()):
        places = {label: place_of(label) for label in row}
        if unknown := [label for label, place in places.items() if place is None]:
            raise _unknown(cells, number, unknown[0], names)
        numbers = [place for place in map(places.get, row) if place is not None]
        out.append(numbers if cells.targets.kind == TAGS else sorted(set(numbers)))
    return out


class _Places:
    """The number of a label: of a name its place; of a number itself, unless the names are numbers."""

    def __init__(self, names: Sequence[str]) -> None:
        self._texts = {name: place for place, name in enumerate(names)}
        numbers = as_numbers(names)
        self._numbers = dict(zip(range(len(names)) if numbers is None else numbers, range(len(names)), strict=True))

    def __call__(self, label: Any) -> int | None:
        if not isinstance(label, str):
            return self._numbers.get(label)
        place = self._texts.get(label)
        return place if place is not None or not label.isdecimal() else self._numbers.get(int(label))


def _unknown(cells: Cells, number: int, label: Any, names: Sequence[str]) -> LaunchError:
    shown = ", ".join(names[:NUM_SHOWN]) + (", ..." if len(names) > NUM_SHOWN else "")
    hint: str = Message("correct that row, or list every label that the data has in model.label_names")
    if len(names) > MAX_LISTED:
        hint = Message("correct that row, or check that data.label is the column with the labels")
    return LaunchError(
        "{place}: column {name!r} has the label {label!r}, which is none of {shown}",
        hint=hint,
        place=cells.place(number),
        name=next(iter(cells.columns)),
        label=label,
        shown=shown,
    )


def counts(rows: Sequence[Sequence[int]], num_labels: int) -> tuple[int, ...]:
    """Rows of each label."""
    flat = np.fromiter((label for row in rows for label in row), np.int64)
    return tuple(np.bincount(flat, minlength=num_labels).tolist())


def notes(parts: Mapping[str, Sequence[Sequence[int]]], names: Sequence[str]) -> list[str]:
    """What the user should know about labels of which nothing can be learned."""
    if "train" not in parts:
        return []
    found = counts(parts["train"], len(names))
    absent = [name for name, count in zip(names, found, strict=True) if not count]
    if not absent:
        return []
    shown = ", ".join(absent[:NUM_SHOWN]) + (", ..." if len(absent) > NUM_SHOWN else "")
    return [Message("no training row has {labels}: nothing is learned of it", labels=shown)]
