"""Figures from what was predicted: arithmetic over whole lists of labels, on one rank, with no hub."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher import plugins
from launcher.recipe import metrics as table
from launcher.worker.tasks.predictions import LABELS, Predictions

MODULE = Path(__file__).parent / "evaluate_modules" / "labels.py"
"""An `evaluate` module; its configurations are the names of metrics."""


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
        if metric.columns == LABELS:
            computed = _module(name).compute(references=columns[0], predictions=columns[1], num_labels=num_labels)
            figures.update(computed)
        else:
            figures[name] = plugins.load_object(metric.computation)(*columns, num_labels=num_labels)
    return figures


@functools.cache  # reading one takes longer than its figure
def _module(name: str) -> Any:
    import evaluate

    return evaluate.load(str(MODULE), name, keep_in_memory=True)
