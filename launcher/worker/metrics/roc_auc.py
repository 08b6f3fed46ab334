"""How often a row that has a label is scored above one that has not."""

from __future__ import annotations

import numpy as np
import sklearn.metrics

from launcher.messages import Message
from launcher.worker.metrics.base import UndefinedError
from launcher.worker.metrics.ranking import ranked


def compute(true: np.ndarray, probabilities: np.ndarray, *, num_labels: int) -> float:
    """Of several labels the mean over them, of each against the others."""
    hot, shares = ranked(true, probabilities)
    if hot.all(0).any():
        raise UndefinedError(Message("every row has label {label}", label=int(np.argmax(np.atleast_1d(hot.all(0))))))
    return float(sklearn.metrics.roc_auc_score(hot, shares))
