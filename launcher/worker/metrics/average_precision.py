"""The area below precision over recall."""

from __future__ import annotations

import numpy as np
import sklearn.metrics

from launcher.worker.metrics.ranking import ranked


def compute(true: np.ndarray, probabilities: np.ndarray, *, num_labels: int) -> float:
    """Of several labels the mean over them."""
    return float(sklearn.metrics.average_precision_score(*ranked(true, probabilities)))
