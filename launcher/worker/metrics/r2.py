"""The share of the variance that predictions explain."""

from __future__ import annotations

import numpy as np
import sklearn.metrics

from launcher.worker.metrics.base import require_variance


def compute(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    require_variance(true)
    return float(sklearn.metrics.r2_score(true, predicted))
