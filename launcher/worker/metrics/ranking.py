"""Scores of each label as the metrics that rank rows by them take them."""

from __future__ import annotations

import numpy as np
import scipy.special

from launcher.messages import Message, plural
from launcher.worker.metrics.base import UndefinedError


def ranked(true: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores of the rows, of two labels for the second alone: both (rows,), or (rows, labels).

    Args:
        true: each row's label, or a 0 or 1 for each label.
        scores: of each row and label, before softmax. What is ranked are the probabilities, in float64.

    Raises:
        UndefinedError: a label has no row, or has them all.
    """
    if true.ndim == 2:
        _require_both(true)
        return true, scores.astype(np.float64)
    chances = scipy.special.softmax(scores.astype(np.float64), axis=-1)
    hot = (true[:, None] == np.arange(scores.shape[1])).astype(np.int64)
    _require_both(hot)
    return (hot[:, 1], chances[:, 1]) if scores.shape[1] == 2 else (hot, chances)


def _require_both(hot: np.ndarray) -> None:
    counts = hot.sum(0)
    lone = np.flatnonzero((counts == 0) | (counts == len(hot))).tolist()
    if not lone:
        return
    if counts[lone[0]]:
        raise UndefinedError(Message("every row has label {label}", label=lone[0]))
    raise UndefinedError(
        plural(
            "label {names} has no row", "labels {names} have no row", count=len(lone), names=", ".join(map(str, lone))
        )
    )
