"""Figures from what was predicted: arithmetic over whole lists of labels, on one rank, with no hub."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

    labels: np.ndarray
    """int64"""
    predicted: np.ndarray
    """int64; NO_LABEL where a score is NaN or infinite"""
    losses: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray, losses: np.ndarray, *, num_rows: int) -> Predictions:
        """Put rows from all ranks into dataset order.

        Args:
            rows: (index, label, prediction) of each, int64, (num_rows, 3), in any order.
            losses: of the same rows, (num_rows,).

        Raises:
            ValueError: an index is missing, outside 0..num_rows-1, or there twice: a bug of ours, never the user's.
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
        return cls(rows[order, 1], rows[order, 2], losses[order])

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """What metrics may be computed from, by name."""
        return {"label": self.labels, "prediction": self.predicted}

    @property
    def loss(self) -> float:
        """The mean over rows, each counted once, whatever batches they came in."""
        return float(self.losses.mean(dtype=np.float64))

    def macro_facts(self, *, num_labels: int) -> dict[str, Any]:
        """Of metrics.json: which labels precision, recall and f1 are averaged over, and how many others there are."""
        labels = np.union1d(self.labels, self.predicted[self.predicted != NO_LABEL])
        return {"macro_average": {"labels": labels.tolist(), "num_labels": num_labels}}

    @functools.cached_property
    def unscored(self) -> list[int]:
        """Indices of the rows without a prediction, or with a loss that is no number."""
        found: list[int] = np.flatnonzero((self.predicted == NO_LABEL) | ~np.isfinite(self.losses)).tolist()
        return found

    def unscored_facts(self) -> dict[str, Any]:
        """Of metrics.json: how many rows have no scores and the first of them; nothing where all have."""
        rows = self.unscored
        return {"unscored": {"count": len(rows), "first_rows": rows[:NUM_NAMED]}} if rows else {}

    def unscored_text(self) -> str:
        """The same in words."""
        rows = self.unscored
        names = ", ".join(map(str, rows[:NUM_NAMED])) + (", …" if len(rows) > NUM_NAMED else "")
        return plural(
            "{count} of {num_labels} rows have scores that are NaN or infinite, so they have no label: "
            "row {names} of the eval split, counted from 0",
            "{count} of {num_labels} rows have scores that are NaN or infinite, so they have no label: "
            "rows {names} of the eval split, counted from 0",
            count=len(rows),
            num_labels=len(self.labels),
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
        """predictions.jsonl: a line a row, in dataset order."""
        for index, (label, prediction) in enumerate(zip(self.labels, self.predicted, strict=True)):
            found = None if prediction == NO_LABEL else int(prediction)
            yield json_text({"index": index, "label": int(label), "prediction": found}) + "\n"


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
        columns = [predictions.columns[column] for column in metric.columns]
        if metric.columns == _LABELS:
            found = _module(name).compute(references=columns[0], predictions=columns[1], num_labels=num_labels)
            figures.update(found)
        else:
            figures[name] = plugins.load_object(metric.computation)(*columns, num_labels=num_labels)
    return figures


@functools.cache  # reading one takes longer than its figure
def _module(name: str) -> Any:
    import evaluate

    return evaluate.load(str(MODULE), name, keep_in_memory=True)
