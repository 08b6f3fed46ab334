"""The label column of each split as numbers: which value is which label, how often each occurs, and what looks wrong.

Labels are numbered from 0, in the order of `model.label_names`. Without names a column that is not numbered from 0 is
numbered in order, and a note says so, where the recipe's `num_labels` leaves one reading only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from launcher.messages import Message, listed, plural
from launcher.worker.data import label_rows
from launcher.worker.data.label_order import Order, named_by_values, unknown_label
from launcher.worker.data.label_values import Column, as_numbers, is_text, occurs, plain_values, whole_numbers


@dataclass(frozen=True)
class Numbered:
    """Every split's labels, numbered alike."""

    names: tuple[str, ...]
    labels: dict[str, Any]
    """By the splits' names: int64; of rows with any number of labels a list of theirs each; of values float64, (rows, values)."""
    notes: tuple[str, ...]

    def counts(self, name: str) -> tuple[int, ...]:
        """Rows of each label."""
        if name not in self.labels or getattr(self.labels[name], "dtype", None) == np.float64:
            return ()
        if isinstance(self.labels[name], list):
            return label_rows.counts(self.labels[name], len(self.names))
        return tuple(np.bincount(self.labels[name], minlength=len(self.names)).tolist())

    def shown(self, name: str, row: int) -> str:
        """A row's label, or labels, or values, for people."""
        own = self.labels[name][row]
        if isinstance(own, list):
            return ", ".join(self.names[label] for label in own) or "–"
        return ", ".join(f"{value:g}" for value in own) if np.ndim(own) else self.names[own]


NONE = Numbered((), {}, ())
"""Of rows without labels."""


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
    parts = {name: plain_values(column, names or ()) for name, column in columns.items()}
    notes: tuple[str, ...] = ()
    first = next(iter(columns.values()))
    if names is None and first.class_names is not None and len(first.class_names) == num_labels:
        names = first.class_names
    if names is None:
        parts = whole_numbers(parts)
        places = tuple(map(str, range(num_labels)))
        names, notes = (places, ()) if trained else named_by_values(columns, parts, num_labels)
    elif as_numbers(names) is None and not occurs(names, parts.values()):
        parts = whole_numbers(parts)
    order = Order(tuple(names), tuple(parts.values()), trained)
    labels = {name: _numbers(columns[name], part, order) for name, part in parts.items()}
    return Numbered(order.names, labels, notes)


def _numbers(column: Column, values: pa.ChunkedArray, order: Order) -> np.ndarray:
    """Each value's place among the names. Numbers are places already, unless the names are numbers themselves."""
    names, classes = order.names, column.class_names
    if classes is not None and not is_text(values) and set(classes) == set(names):
        places = [names.index(name) for name in classes]
        indices = _looked_up(values, list(range(len(classes))), places)
    elif is_text(values):
        indices = pc.index_in(values, value_set=pa.array(names, pa.large_string()))
    else:
        indices = pc.index_in(values, value_set=pa.array(as_numbers(names) or range(len(names)), pa.int64()))
    if indices.null_count:
        raise unknown_label(column, values, np.flatnonzero(pc.is_null(indices).to_numpy()), order)
    return indices.to_numpy().astype(np.int64)


def _looked_up(values: pa.ChunkedArray, these: Sequence[int], those: Sequence[int]) -> pa.ChunkedArray:
    return pc.take(pa.array(those, pa.int32()), pc.index_in(values, value_set=pa.array(these, pa.int64())))


def notes(numbered: Numbered, columns: Mapping[str, Column]) -> list[str]:
    """What the user should know about labels that nothing can be learned about, or nothing measured."""
    counts = {name: numbered.counts(name) for name in columns}
    messages: list[str] = []
    for name, column in columns.items():
        present = [i for i, count in enumerate(counts[name]) if count]
        absent = [i for i, count in enumerate(counts[name]) if not count]
        if len(present) == 1:
            messages.append(_lone_note(column, _called(present, numbered.names), is_train=name == "train"))
        if absent:
            messages.append(_absent_note(column, absent, numbered.names, is_train=name == "train"))
    if {"train", "eval"} <= counts.keys():
        new = [i for i, count in enumerate(counts["eval"]) if count and not counts["train"][i]]
        if new:
            rows = sum(counts["eval"][i] for i in new)
            messages.append(
                plural(
                    "{count} row of split {split!r} has label {new}, which no training row has",
                    "{count} rows of split {split!r} have label {new}, which no training row has",
                    count=rows,
                    split=columns["eval"].split,
                    new=_called(new, numbered.names),
                )
            )
    return messages


def _lone_note(column: Column, label: str, *, is_train: bool) -> str:
    text = Message("every row of split {split!r} has label {place}", split=column.split, place=label)
    return Message("{text}, so there is nothing to tell apart", text=text) if is_train else text


def _absent_note(column: Column, absent: Sequence[int], names: Sequence[str], *, is_train: bool) -> str:
    count = len(absent)
    verb = plural("{absent} never occurs", "{absent} never occur", count=count, absent=_called(absent, names))
    what: str = Message("macro averages leave out what is never predicted either")
    if is_train:
        what = plural("nothing is learned of it", "nothing is learned of them", count=count)
    return plural(
        "split {split!r}: label {verb}: {what}",
        "split {split!r}: labels {verb}: {what}",
        count=count,
        split=column.split,
        verb=verb,
        what=what,
    )


def _called(labels: Sequence[int], names: Sequence[str]) -> str:
    """1 to 4; 0 (bad) and 2 (good)."""
    if len(labels) > 2 and labels[-1] - labels[0] == len(labels) - 1:
        return Message("{label} to {labels}", label=labels[0], labels=labels[-1])
    items = [f"{i}" if names[i] == str(i) else f"{i} ({names[i]})" for i in labels]
    return listed([*items[:6], Message("{count} more", count=len(items) - 6)] if len(items) > 7 else items)


def repeated(train: pa.ChunkedArray, held: pa.ChunkedArray) -> int:
    """How many evaluation rows have a text that is a training row's too."""
    return int(pc.sum(are_repeated(train, held)).as_py() or 0)


def are_repeated(train: pa.ChunkedArray, held: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each evaluation row's text is a training row's too. The table that is looked up is the evaluation's alone."""
    held, train = held.cast(pa.large_string()), train.cast(pa.large_string())
    both = pc.unique(train.filter(pc.is_in(train, value_set=held.combine_chunks())))
    return pc.is_in(held, value_set=both)
