"""The mean distance between value and prediction."""

from __future__ import annotations

import numpy as np
import sklearn.metrics


def compute(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    """|prediction - value|, also for labels in an order."""
    return float(sklearn.metrics.mean_absolute_error(true, predicted))
