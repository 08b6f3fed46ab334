"""Figures from what was predicted: arithmetic over whole lists of labels, on one rank, with no hub."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from launcher import plugins
from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.files import json_text
from launcher.messages import Message, plural
from launcher.recipe import metrics as table

MODULE = Path(__file__).parent / "evaluate_modules" / "labels.py"
"""An `evaluate` module; its configurations are the names of metrics."""
_LABELS = ("label", "prediction")

NO_LABEL = -1
"""Predicted for a row whose scores are not all numbers: the highest of them means nothing."""
NUM_NAMED = 10
"""So many of those rows are named."""


@dataclass(frozen=True)
class Predictions:
    """Every row of an evaluation once, in dataset order."""

    columns: Mapping[str, np.ndarray]
    """int64, by the names that the task's `columns` has; a `prediction` is NO_LABEL where a score is NaN or infinite"""
    losses: np.ndarray
    """Of each row, summed over what counts in it."""
    counts: np.ndarray
    """int64: over how many things."""
    sets: Mapping[str, slice] = field(default_factory=dict)
    """Which rows are of which set, where there are several by names."""

    @classmethod
    def from_rows(cls, rows: np.ndarray, losses: np.ndarray, *, num_rows: int, names: Sequence[str]) -> Predictions:
        """Put rows from all ranks into dataset order.

        Args:
            rows: (index, count, and a number for each of `names`) of each, int64, (num_rows, 2 + names), in any order.
            losses: of the same rows, (num_rows,).
            num_rows: of the split.
            names: of the task's columns.

        Raises:
            ValueError: an index is missing, outside 0..num_rows-1, or there twice: a bug, never the user's error.
        """
        order = np.argsort(rows[:, 0], kind="stable")
        if not np.array_equal(rows[order, 0], np.arange(num_rows)):
            raise ValueError(
                Message(
                    "{num_rows} rows were evaluated, with indices that are not 0 to {last} once each",
                    num_rows=len(rows),
                    last=num_rows - 1,
                )
            )
        return cls({name: rows[order, 2 + i] for i, name in enumerate(names)}, losses[order], rows[order, 1])

    @property
    def loss(self) -> float:
        """The mean over what counts in all rows, whatever batches they came in."""
        return float(self.losses.sum(dtype=np.float64) / max(self.counts.sum(), 1))

    def part(self, name: str) -> Predictions:
        """Of one of the sets."""
        rows = self.sets[name]
        columns = {column: values[rows] for column, values in self.columns.items()}
        return Predictions(columns, self.losses[rows], self.counts[rows])

    def column(self, name: str) -> np.ndarray:
        """A column of the task, or one of those that every evaluation has."""
        return {**self.columns, "loss": self.losses, "count": self.counts}[name]

    def macro_facts(self, *, num_labels: int) -> dict[str, Any]:
        """Of metrics.json: which labels macro averages are over, and how many others there are; nothing without labels."""
        if not self.columns.keys() >= set(_LABELS):
            return {}
        label, predicted = (self.columns[name] for name in _LABELS)
        labels = np.union1d(label, predicted[predicted != NO_LABEL])
        return {"macro_average": {"labels": labels.tolist(), "num_labels": num_labels}}

    @functools.cached_property
    def unscored(self) -> list[int]:
        """Indices of the rows without a prediction, or with a loss that is not a number."""
        is_unscored = ~np.isfinite(self.losses)
        if _LABELS[1] in self.columns:
            is_unscored |= self.columns[_LABELS[1]] == NO_LABEL
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
        if _LABELS[1] not in self.columns:
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

    def lines(self) -> Iterable[str]:
        """predictions.jsonl: a line a row, in dataset order; of several sets one after the other, counted in each. Rows
        without a label have their loss, and over how many things it was summed."""
        starts = {one.start: name for name, one in self.sets.items() if one.start < one.stop}
        at, first = {}, 0
        for number, numbers in enumerate(zip(*self.columns.values(), strict=True)):
            row = dict(zip(self.columns, map(int, numbers), strict=True))
            if row.get(_LABELS[1]) == NO_LABEL:
                row[_LABELS[1]] = None  # type: ignore[assignment]
            if number in starts:
                at, first = {"set": starts[number]}, number
            if _LABELS[0] not in row:
                loss = float(self.losses[number])
                row |= {"count": int(self.counts[number]), "loss": loss if math.isfinite(loss) else None}  # type: ignore[dict-item]
            yield json_text({**at, "index": number - first, **row}) + "\n"


def compute(names: Sequence[str], predictions: Predictions, *, num_labels: int) -> dict[str, Any]:
    """The named figures.

    Args:
        names: of the table of metrics.
        predictions: every row once.
        num_labels: labels are 0..num_labels-1; a class without rows still has its row and column.

    Returns:
        name → number, or a num_labels x num_labels list of counts for confusion_matrix. NaN for each name where a row
        has no prediction: figures of the other rows would be of another evaluation.
    """
    if predictions.unscored:
        return dict.fromkeys(names, math.nan)
    figures: dict[str, Any] = {}
    for name in names:
        metric = table.load(name)
        columns = [predictions.column(column) for column in metric.columns]
        if metric.columns == _LABELS:
            computed = _module(name).compute(references=columns[0], predictions=columns[1], num_labels=num_labels)
            figures.update(computed)
        else:
            figures[name] = plugins.load_object(metric.computation)(*columns, num_labels=num_labels)
    return figures


@functools.cache  # reading one takes longer than its figure
def _module(name: str) -> Any:
    import evaluate

    return evaluate.load(str(MODULE), name, keep_in_memory=True)
