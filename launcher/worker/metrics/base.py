"""What computations of metrics have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from launcher.messages import Message

Labels: TypeAlias = "np.ndarray | Sequence[Sequence[int]]"
"""Of each row a label's number, a 0 or 1 for each label, or the number of each of its words' labels."""


class UndefinedError(Exception):
    """A metric has no value for these rows; the text says why."""


def flat(labels: Labels) -> np.ndarray:
    """As scikit-learn takes them; of rows with a label for each word, the words of all rows one after the other."""
    return labels if isinstance(labels, np.ndarray) else np.fromiter(chain.from_iterable(labels), dtype=np.int64)


def average(score: Callable[..., Any], true: Labels, predicted: Labels, how: str) -> float:
    """A score of each label, averaged over the labels that occur or were predicted."""
    # scikit-learn's own choice of labels. One that was never predicted counts as 0; one that neither occurs nor was
    # predicted says nothing about the model, and does not count.
    return float(score(flat(true), flat(predicted), average=how, zero_division=0))


def require_variance(*columns: np.ndarray) -> None:
    """Raises UndefinedError where all values of one are the same, or there is only one."""
    names = Message("values"), Message("predictions")
    for name, values in zip(names, columns, strict=False):
        if len(values) < 2 or not np.any(values != values[:1]):
            raise UndefinedError(Message("all {name} are the same", name=name))


def by_value(score: Callable[[np.ndarray, np.ndarray], float], true: np.ndarray, predicted: np.ndarray) -> float:
    """A score of one value a row; of several values a row, the mean of theirs."""
    if true.ndim == 1:
        return score(true, predicted)
    return float(np.mean([score(true[:, i], predicted[:, i]) for i in range(true.shape[1])]))
