"""The harmonic mean of precision and recall."""

from __future__ import annotations

import sklearn.metrics

from launcher.worker.metrics.base import Labels, average


def compute(true: Labels, predicted: Labels, *, num_labels: int) -> float:
    return average(sklearn.metrics.f1_score, true, predicted, "macro")


def weighted(true: Labels, predicted: Labels, *, num_labels: int) -> float:
    """Each label counts as often as it occurs."""
    return average(sklearn.metrics.f1_score, true, predicted, "weighted")


def micro(true: Labels, predicted: Labels, *, num_labels: int) -> float:
    """Of all labels of all rows together."""
    return average(sklearn.metrics.f1_score, true, predicted, "micro")
