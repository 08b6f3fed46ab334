"""The mean of the recalls of the labels that occur."""

from __future__ import annotations

import numpy as np
import sklearn.metrics


def compute(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    return float(sklearn.metrics.balanced_accuracy_score(true, predicted))
