"""The correlation of the ranks of values and predictions."""

from __future__ import annotations

import numpy as np
import scipy.stats

from launcher.worker.metrics.base import by_value, require_variance


def compute(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    return by_value(_of_one, true, predicted)


def _of_one(true: np.ndarray, predicted: np.ndarray) -> float:
    require_variance(true, predicted)
    return float(scipy.stats.spearmanr(true, predicted).statistic)
