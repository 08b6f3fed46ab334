"""Of the rows that are given a label, those that have it."""

from __future__ import annotations

import sklearn.metrics

from launcher.worker.metrics.base import Labels, average


def compute(true: Labels, predicted: Labels, *, num_labels: int) -> float:
    return average(sklearn.metrics.precision_score, true, predicted, "macro")


def weighted(true: Labels, predicted: Labels, *, num_labels: int) -> float:
    """Each label counts as often as it occurs."""
    return average(sklearn.metrics.precision_score, true, predicted, "weighted")
