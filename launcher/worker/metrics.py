"""Figures from what was predicted: arithmetic over whole lists of labels, on one rank, with no hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULE = Path(__file__).parent / "evaluate_modules" / "labels.py"
"""An `evaluate` module over scikit-learn; its configurations are our metric names."""


@dataclass(frozen=True)
class Predictions:
    """Every row of an evaluation once, in dataset order."""

    labels: tuple[int, ...]
    predicted: tuple[int, ...]
    losses: tuple[float, ...]

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[int, int, int, float]], *, num_rows: int) -> Predictions:
        """Put (index, label, prediction, loss) rows from all ranks into dataset order.

        Raises:
            ValueError: an index is missing, outside 0..num_rows-1, or there twice: a bug of ours, never the user's.
        """
        ordered = sorted(rows)
        if [row[0] for row in ordered] != list(range(num_rows)):
            raise ValueError(
                f"{len(ordered)} rows were evaluated, with indices that are not 0 to {num_rows - 1} once each"
            )
        _, labels, predicted, losses = zip(*ordered, strict=True)
        return cls(labels, predicted, losses)

    @property
    def loss(self) -> float:
        """The mean over rows, each counted once, whatever batches they came in."""
        return sum(self.losses) / len(self.losses)

    def lines(self) -> Iterable[str]:
        """predictions.jsonl: a line a row, in dataset order."""
        for index, (label, prediction) in enumerate(zip(self.labels, self.predicted, strict=True)):
            yield json.dumps({"index": index, "label": label, "prediction": prediction}) + "\n"


def compute(names: Sequence[str], predictions: Predictions, *, num_labels: int) -> dict[str, Any]:
    """The named figures.

    Args:
        names: of accuracy, precision, recall, f1 (the last three averaged over classes, each class alike), mae
            (|prediction - label| for labels in an order) and confusion_matrix (rows are true labels).
        predictions: every row once.
        num_labels: labels are 0..num_labels-1; a class without rows still has its row and column.

    Returns:
        name → number, or a num_labels x num_labels list of counts for confusion_matrix.
    """
    import evaluate

    figures: dict[str, Any] = {}
    for name in names:
        module = evaluate.load(str(MODULE), name, keep_in_memory=True)
        found = module.compute(predictions=predictions.predicted, references=predictions.labels, num_labels=num_labels)
        figures.update(found)
    return figures
