"""What a classification head learns of a row, and says of it: a label, any number of labels, or values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from launcher.recipe.tasks.base import PROBABILITIES, SCORES
from launcher.worker.tasks.base import Evaluated, answers_of, evaluated
from launcher.worker.tasks.predictions import NO_LABEL

_BITS = "label_bits"
"""float64 as whole numbers of 64 bits: cards take no float64."""


class Targets(Protocol):
    """One kind of them. Scores are the head's output, fp32, (rows, labels or values)."""

    def batch(self, labels: Sequence[Any]) -> dict[str, Tensor]:
        """`labels` of a batch, from those of its prepared rows; 0 of a row that `predict` is asked about."""

    def evaluated(self, scores: Tensor, batch: dict[str, Tensor], losses: Tensor) -> Evaluated:
        """What is left of each row, with its loss."""

    def answers(self, scores: Tensor) -> list[Any]:
        """What `predict` answers, as the other half of the task takes it."""


class OneLabel:
    """A row has one label; the softmax of its scores is their probability."""

    def __init__(self, more: Collection[str] = ()) -> None:
        self._more = more

    def batch(self, labels: Sequence[Any]) -> dict[str, Tensor]:
        return {"labels": torch.tensor(labels)}

    def evaluated(self, scores: Tensor, batch: dict[str, Tensor], losses: Tensor) -> Evaluated:
        return evaluated(batch, scores, losses, self._more)

    def answers(self, scores: Tensor) -> list[Any]:
        return answers_of(scores)


class ManyLabels:
    """A row has any number of labels; the sigmoid of each score is that label's probability, and from `threshold` on the row
    has it."""

    def __init__(self, num_labels: int, threshold: float, more: Collection[str] = ()) -> None:
        self._num_labels, self._threshold, self._more = num_labels, threshold, more

    def batch(self, labels: Sequence[Any]) -> dict[str, Tensor]:
        flags = torch.zeros(len(labels), self._num_labels)
        for row, own in enumerate(labels):
            flags[row, own or []] = 1
        return {"labels": flags}

    def evaluated(self, scores: Tensor, batch: dict[str, Tensor], losses: Tensor) -> Evaluated:
        labels = batch["labels"]
        columns = {"label": labels.long(), "prediction": self._predicted(scores)}
        columns |= {SCORES: scores} if SCORES in self._more else {}
        columns |= {PROBABILITIES: _sigmoid(scores)} if PROBABILITIES in self._more else {}
        return Evaluated(columns, losses, torch.ones(len(labels), dtype=torch.int64))

    def answers(self, scores: Tensor) -> list[Any]:
        rows = zip(self._predicted(scores).tolist(), _sigmoid(scores).tolist(), strict=True)
        return [
            _unanswered("labels", PROBABILITIES)
            if NO_LABEL in flags
            else {"labels": [i for i, flag in enumerate(flags) if flag], PROBABILITIES: shares}
            for flags, shares in rows
        ]

    def _predicted(self, scores: Tensor) -> Tensor:
        """0 and 1 of each label; NO_LABEL of a row where a score is NaN or infinite."""
        shares = _sigmoid(scores)
        is_scored = scores.cpu().isfinite().all(-1, keepdim=True)
        return torch.where(is_scored, (shares >= self._threshold).long(), NO_LABEL)


class Values:
    """A row has numbers, which the scores are to be."""

    def batch(self, labels: Sequence[Any]) -> dict[str, Tensor]:
        exact = torch.tensor([own or [0.0] for own in labels], dtype=torch.float64)
        return {"labels": exact.float(), _BITS: exact.view(torch.int64)}

    def evaluated(self, scores: Tensor, batch: dict[str, Tensor], losses: Tensor) -> Evaluated:
        exact = batch[_BITS].cpu().view(torch.float64)
        columns = {"label": _flat(exact), "prediction": _flat(scores)}
        return Evaluated(columns, losses, torch.ones(len(scores), dtype=torch.int64))

    def answers(self, scores: Tensor) -> list[Any]:
        is_finite = scores.isfinite().all(-1).tolist()
        rows = zip(scores.tolist(), is_finite, strict=True)
        return [{"values": values} if finite else _unanswered("values") for values, finite in rows]


def _sigmoid(scores: Tensor) -> Tensor:
    """float64, on the host: by these very numbers a label is predicted or not, and in fp32 sure ones are all 1."""
    return scores.cpu().double().sigmoid()


def _flat(values: Tensor) -> Tensor:
    """A number a row, where there is one value."""
    return values[:, 0] if values.shape[1] == 1 else values


def _unanswered(*keys: str) -> dict[str, None]:
    return dict.fromkeys(keys)
