"""The share of labels that are wrong."""

from __future__ import annotations

import numpy as np
import sklearn.metrics


def compute(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    return float(sklearn.metrics.hamming_loss(true, predicted))
