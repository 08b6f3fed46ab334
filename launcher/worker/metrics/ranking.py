"""What metrics that rank rows take: for each label, which rows have it, and how likely it is said to be."""

from __future__ import annotations

import numpy as np

from launcher.messages import plural
from launcher.worker.metrics.base import UndefinedError


def ranked(true: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth and probability of each row and label, (rows, labels) both; of two labels the second's alone, (rows,).

    Args:
        true: each row's label, or a 0 or 1 for each label.
        probabilities: of each row and label.

    Raises:
        UndefinedError: a label has no row.
    """
    num_labels = probabilities.shape[1]
    hot = true if true.ndim == 2 else (true[:, None] == np.arange(num_labels)).astype(np.int64)
    absent = np.flatnonzero(~hot.any(0)).tolist()
    if absent:
        names = ", ".join(map(str, absent))
        raise UndefinedError(
            plural("label {names} has no row", "labels {names} have no row", count=len(absent), names=names)
        )
    return (hot[:, 1], probabilities[:, 1]) if true.ndim == 1 and num_labels == 2 else (hot, probabilities)
