"""Agreement beyond chance."""

from __future__ import annotations

import numpy as np
import sklearn.metrics

from launcher.messages import Message
from launcher.worker.metrics.base import UndefinedError


def compute(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    if len(np.union1d(true, predicted)) < 2:
        raise UndefinedError(Message("only one label occurs and is predicted"))
    return float(sklearn.metrics.cohen_kappa_score(true, predicted))
