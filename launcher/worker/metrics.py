"""Figures from what was predicted: arithmetic over whole lists of labels, on one rank, with no hub."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MODULE = Path(__file__).parent / "evaluate_modules" / "labels.py"
"""An `evaluate` module over scikit-learn; its configurations are our metric names."""


@dataclass(frozen=True)
class Predictions:
    """Every row of an evaluation once, in dataset order."""

    labels: np.ndarray
    """int64"""
    predicted: np.ndarray
    """int64"""
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
                f"{len(rows)} rows were evaluated, with indices that are not 0 to {num_rows - 1} once each"
            )
        return cls(rows[order, 1], rows[order, 2], losses[order])

    @property
    def loss(self) -> float:
        """The mean over rows, each counted once, whatever batches they came in."""
        return float(self.losses.mean(dtype=np.float64))

    def macro_facts(self, *, num_labels: int) -> dict[str, Any]:
        """Of metrics.json: which labels precision, recall and f1 are averaged over, and how many others there are."""
        labels = np.union1d(self.labels, self.predicted)
        return {"macro_average": {"labels": labels.tolist(), "num_labels": num_labels}}

    def lines(self) -> Iterable[str]:
        """predictions.jsonl: a line a row, in dataset order."""
        for index, (label, prediction) in enumerate(zip(self.labels, self.predicted, strict=True)):
            yield json.dumps({"index": index, "label": int(label), "prediction": int(prediction)}) + "\n"


def compute(names: Sequence[str], predictions: Predictions, *, num_labels: int) -> dict[str, Any]:
    """The named figures.

    Args:
        names: of accuracy, precision, recall, f1 (the last three averaged over
            the labels that occur or were predicted, each alike, as scikit-learn does), mae
            (|prediction - label| for labels in an order) and confusion_matrix (rows are true labels).
        predictions: every row once.
        num_labels: labels are 0..num_labels-1; a class without rows still has its row and column.

    Returns:
        name → number, or a num_labels x num_labels list of counts for confusion_matrix.
    """
    figures: dict[str, Any] = {}
    for name in names:
        found = _module(name).compute(
            predictions=predictions.predicted, references=predictions.labels, num_labels=num_labels
        )
        figures.update(found)
    return figures


@functools.cache  # reading one takes longer than its figure
def _module(name: str) -> Any:
    import evaluate

    return evaluate.load(str(MODULE), name, keep_in_memory=True)
