"""How often a row that has a label is scored above one that has not."""

from __future__ import annotations

import numpy as np
import sklearn.metrics

from launcher.worker.metrics.ranking import ranked


def compute(true: np.ndarray, scores: np.ndarray, *, num_labels: int) -> float:
    """Of several labels the mean over them, of each against the others."""
    return float(sklearn.metrics.roc_auc_score(*ranked(true, scores)))
