"""What an evaluation leaves of its rows, from all ranks: in dataset order, as arrays for metrics and as lines of a file."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.files import json_text
from launcher.messages import Message, plural
from launcher.recipe.tasks.base import SCORES

Column = np.ndarray | list[Any]
"""Of each row a number or a vector of numbers, rows first; or a JSON value."""
LABELS = ("label", "prediction")

ID = "id"
NOTHING: Mapping[str, Sequence[Any]] = {}
NUM_WORST = 10
_FOR_METRICS = (SCORES,)
"""Columns that no file has."""
NO_LABEL = -1
"""Predicted for a row whose scores are not all numbers: the highest of them means nothing."""
NUM_NAMED = 10
"""So many of those rows are named."""


class Part(NamedTuple):
    """What is left of some rows, such as those of one rank."""

    indices: np.ndarray
    """int64: where each row is in the split."""
    columns: Mapping[str, Column]
    losses: np.ndarray
    """float64."""
    counts: np.ndarray
    """int64."""


def joined(parts: Sequence[Part]) -> Part | None:
    """The rows of several; None of none."""
    if not parts:
        return None
    columns = {name: _column([part.columns[name] for part in parts]) for name in parts[0].columns}
    indices, losses, counts = (np.concatenate([part[i] for part in parts]) for i in (0, 2, 3))
    return Part(indices, columns, losses, counts)


def _column(pieces: Sequence[Column]) -> Column:
    arrays = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    return np.concatenate(arrays) if len(arrays) == len(pieces) else [value for piece in pieces for value in piece]


@dataclass(frozen=True)
class Predictions:
    """Every row of an evaluation once, in dataset order."""

    columns: Mapping[str, Column]
    """By the names that the task's `columns` has. Arrays are int64, bool or float64, (rows,) or (rows, so many); a list has
    a JSON value for each row. A `prediction` is NO_LABEL, or NaN or infinite where it is a value, where a score is."""
    losses: np.ndarray
    """Of each row, summed over what counts in it."""
    counts: np.ndarray
    """int64: over how many things."""
    sets: Mapping[str, slice] = field(default_factory=dict)
    """Which rows are of which set, where there are several by names."""

    @classmethod
    def from_parts(cls, parts: Sequence[Part], *, num_rows: int) -> Predictions:
        """Put rows from all ranks into dataset order.

        Args:
            parts: all rows of the split, in any order.
            num_rows: of the split.

        Raises:
            ValueError: an index is missing, outside 0..num_rows-1, or there twice: a bug, never the user's error.
        """
        whole = joined(parts) or Part(np.zeros(0, np.int64), {}, np.zeros(0), np.zeros(0, np.int64))
        order = np.argsort(whole.indices, kind="stable")
        if not np.array_equal(whole.indices[order], np.arange(num_rows)):
            raise ValueError(
                Message(
                    "{num_rows} rows were evaluated, with indices that are not 0 to {last} once each",
                    num_rows=len(whole.indices),
                    last=num_rows - 1,
                )
            )
        columns = {name: _taken(column, order) for name, column in whole.columns.items()}
        return cls(columns, whole.losses[order], whole.counts[order])

    @property
    def mean_losses(self) -> np.ndarray:
        """Of each row, over what counts in it."""
        means: np.ndarray = self.losses / np.maximum(self.counts, 1)
        return means

    @property
    def loss(self) -> float:
        """The mean over what counts in all rows, whatever batches they came in."""
        return float(self.losses.sum(dtype=np.float64) / max(self.counts.sum(), 1))

    def part(self, name: str) -> Predictions:
        """Of one of the sets."""
        rows = self.sets[name]
        columns: dict[str, Column] = {column: values[rows] for column, values in self.columns.items()}
        return Predictions(columns, self.losses[rows], self.counts[rows])

    def column(self, name: str) -> Column:
        """A column of the task, or one of those that every evaluation has."""
        return {**self.columns, "loss": self.losses, "count": self.counts}[name]

    def macro_facts(self, *, num_labels: int) -> dict[str, Any]:
        """Of metrics.json: which labels macro averages are over, and how many others there are; nothing of rows that
        have not one label each."""
        label, predicted = (self.columns.get(name) for name in LABELS)
        if not (is_numbers(label) and is_numbers(predicted)):
            return {}
        labels = np.union1d(label, predicted[predicted != NO_LABEL])
        return {"macro_average": {"labels": labels.tolist(), "num_labels": num_labels}}

    @functools.cached_property
    def unscored(self) -> list[int]:
        """Indices of the rows without a prediction, or with a loss that is not a number."""
        is_unscored = ~np.isfinite(self.losses)
        if LABELS[1] in self.columns:
            is_unscored |= _is_missing(self.columns[LABELS[1]])
        rows: list[int] = np.flatnonzero(is_unscored).tolist()
        return rows

    def unscored_facts(self) -> dict[str, Any]:
        """Of metrics.json: how many rows have no scores and the first of them; nothing where all have."""
        rows = self.unscored
        return {"unscored": {"count": len(rows), "first_rows": rows[:NUM_NAMED]}} if rows else {}

    def unscored_text(self) -> str:
        """The same as a sentence."""
        rows = self.unscored
        names = ", ".join(map(str, rows[:NUM_NAMED])) + (", …" if len(rows) > NUM_NAMED else "")
        if LABELS[1] not in self.columns:
            return plural(
                "{count} of {num_rows} rows have a loss that is NaN or infinite: row {names} of the eval split, counted from 0",
                "{count} of {num_rows} rows have a loss that is NaN or infinite: rows {names} of the eval split, counted from 0",
                count=len(rows),
                num_rows=len(self.losses),
                names=names,
            )
        return plural(
            "{count} of {num_labels} rows have scores that are NaN or infinite, so they have no label: "
            "row {names} of the eval split, counted from 0",
            "{count} of {num_labels} rows have scores that are NaN or infinite, so they have no label: "
            "rows {names} of the eval split, counted from 0",
            count=len(rows),
            num_labels=len(self.losses),
            names=names,
        )

    def require_scores(self, kept: Path) -> None:
        """Fail where a row has no scores; the results are in `kept` by then.

        Raises:
            LaunchError: with those rows.
        """
        if self.unscored:
            raise LaunchError(
                self.unscored_text(),
                hint=Message(
                    "{kept} has null for them, and for every figure; look at those rows and at the weights for "
                    "NaN, and try parallel.precision=fp32",
                    kept=kept,
                ),
                exit_code=EXIT_JOB_FAILED,
            )

    def lines(self, more: Mapping[str, Sequence[Any]] = NOTHING, *, losses: bool = False) -> Iterable[str]:
        """predictions.jsonl: a line a row, in dataset order; of several sets one after the other, counted in each.

        Args:
            more: of each row, what comes after its predictions; its ID stands before them.
            losses: whether each row has its loss, and over how many things it was summed. Rows that have not one label
                each have them in any case.
        """
        for row in self.rows(range(len(self.losses)), more, losses=losses):
            yield json_text(row) + "\n"

    def worst(
        self, more: Mapping[str, Sequence[Any]] = NOTHING, order: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """The first rows of an order, as in predictions.jsonl; where there is none those with the largest mean losses, and before
        them those without one."""
        if order is None:
            means = self.mean_losses
            order = np.argsort(np.where(np.isfinite(means), -means, -np.inf), kind="stable").tolist()
        return list(self.rows(order[:NUM_WORST], more, losses=True))

    def rows(
        self, numbers: Sequence[int], more: Mapping[str, Sequence[Any]], *, losses: bool
    ) -> Iterator[dict[str, Any]]:
        """Some rows, as JSON objects."""
        order = np.array(numbers, np.int64)
        kept = {name: column for name, column in self.columns.items() if name not in _FOR_METRICS}
        columns = {name: _json_values(name, _taken(column, order)) for name, column in kept.items()}
        if losses or not is_numbers(self.columns.get(LABELS[0])):
            if not isinstance(self.columns.get(LABELS[0]), np.ndarray):  # else a row counts once
                columns["count"] = self.counts[order].tolist()
            columns["loss"] = _json_values("loss", self.losses[order])
        after = {name: _values(column, order) for name, column in more.items() if name != ID}
        ids = {ID: _values(more[ID], order)} if ID in more else {}
        columns = {**ids, **columns, **after}
        for number, *values in zip(numbers, *columns.values(), strict=True):
            yield {**self._place(number), **dict(zip(columns, values, strict=True))}

    def _place(self, number: int) -> dict[str, Any]:
        for name, rows in self.sets.items():
            if rows.start <= number < rows.stop:
                return {"set": name, "index": number - rows.start}
        return {"index": number}


def named(predictions: Predictions, names: Sequence[str]) -> dict[str, list[Any]]:
    """The names of each row's labels: label_name and prediction_name. Nothing where they are none."""
    columns = {f"{name}_name": predictions.columns[name] for name in LABELS if name in predictions.columns}
    return {key: _names(column, names) for key, column in columns.items() if _are_labels(column)}


def _are_labels(column: Column) -> bool:
    return column.dtype.kind == "i" if isinstance(column, np.ndarray) else True


def _names(column: Column, names: Sequence[str]) -> list[Any]:
    """Of each row's label, or labels: numbers, or a 1 in the place of each that it has."""
    values = _json_values(LABELS[1], column)
    if isinstance(column, np.ndarray) and column.ndim == 1:
        return [None if value is None else names[value] for value in values]
    if isinstance(column, np.ndarray):
        values = [None if value is None else np.flatnonzero(value).tolist() for value in values]
    return [None if value is None else [names[label] for label in value] for value in values]


def _taken(column: Column, order: np.ndarray) -> Column:
    return column[order] if isinstance(column, np.ndarray) else _values(column, order)


def _values(column: Sequence[Any], order: np.ndarray) -> list[Any]:
    return [column[i] for i in order.tolist()]


def is_numbers(column: Column | None) -> TypeGuard[np.ndarray]:
    """Whether it is a whole number for each row."""
    return isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind == "i"


def _is_missing(predicted: Column) -> np.ndarray:
    """Which rows have no prediction, or one of which a part is none."""
    if not isinstance(predicted, np.ndarray):
        return np.array([NO_LABEL in row for row in predicted], bool)
    missing = ~np.isfinite(predicted) if predicted.dtype.kind == "f" else predicted == NO_LABEL
    return missing if missing.ndim == 1 else missing.any(-1)


def _json_values(name: str, column: Column) -> list[Any]:
    """A column's values as JSON has them: null for what is no number, and for a prediction that there is not."""
    values = column.tolist() if isinstance(column, np.ndarray) else list(column)
    if name == LABELS[1]:
        return [None if missing else value for missing, value in zip(_is_missing(column), values, strict=True)]
    if isinstance(column, np.ndarray) and not np.isfinite(column).all():
        return [_finite(value) for value in values]
    return values


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value if math.isfinite(value) else None
