"""Tokens that are the likeliest ones."""

from __future__ import annotations

import numpy as np


def compute(correct: np.ndarray, counts: np.ndarray, *, num_labels: int) -> float:
    """The share of the tokens to be predicted."""
    return float(correct.sum() / counts.sum())
