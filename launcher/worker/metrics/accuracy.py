"""Rows, or words, whose label is right."""

from __future__ import annotations

import sklearn.metrics

from launcher.worker.metrics.base import Labels, flat


def compute(true: Labels, predicted: Labels, *, num_labels: int) -> float:
    return float(sklearn.metrics.accuracy_score(flat(true), flat(predicted)))
