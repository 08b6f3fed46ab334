"""The metrics that are built in. Those of labels are plain scikit-learn calls, so whoever recomputes a figure from
predictions.jsonl with scikit-learn gets the same digits.

A function gets the columns that its metric names, of all rows, and the number of labels, which are counted from 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn.metrics


def accuracy(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    return float(sklearn.metrics.accuracy_score(true, predicted))


def precision(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    return _macro(sklearn.metrics.precision_score, true, predicted)


def recall(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    return _macro(sklearn.metrics.recall_score, true, predicted)


def f1(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    return _macro(sklearn.metrics.f1_score, true, predicted)


def mean_absolute_error(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> float:
    """|prediction - label|, for labels in an order."""
    return float(sklearn.metrics.mean_absolute_error(true, predicted))


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> list[list[int]]:
    """Rows are true labels. A label without rows still has its row and column."""
    counts: list[list[int]] = sklearn.metrics.confusion_matrix(true, predicted, labels=list(range(num_labels))).tolist()
    return counts


def perplexity(losses: np.ndarray, counts: np.ndarray, *, num_labels: int) -> float:
    """e to the mean loss of what counts in all rows."""
    return float(np.exp(losses.sum(dtype=np.float64) / counts.sum()))


def token_accuracy(correct: np.ndarray, counts: np.ndarray, *, num_labels: int) -> float:
    """The share of the tokens to be predicted that are the likeliest ones."""
    return float(correct.sum() / counts.sum())


def _macro(score: Any, true: np.ndarray, predicted: np.ndarray) -> float:
    # scikit-learn's own choice of labels: those that occur or were predicted, each alike. One that was never predicted
    # counts as 0; one that neither occurs nor was predicted says nothing about the model, and does not count.
    return float(score(true, predicted, average="macro", zero_division=0))
