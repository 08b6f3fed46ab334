"""The root of the mean squared distance between value and prediction."""

from __future__ import annotations

import numpy as np
import sklearn.metrics


def compute(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    """Of several values a row, the mean of each one's root."""
    return float(sklearn.metrics.root_mean_squared_error(true, predicted))
