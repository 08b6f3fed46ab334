"""What a task says of rows, of the loss and of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from launcher.worker.tasks.metrics import NO_LABEL


class Task(Protocol):
    """What a trainer needs from a task. Batches are dicts of tensors; every method is per row, never reduced."""

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Rows (input_ids, labels) as one padded batch."""

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Loss of each row, fp32, shape (rows,)."""

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Predicted label (int64; see `labels_of`) and loss (fp32) of each row, both of shape (rows,), on the batch's
        device."""

    def scores(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Score of each label for each row, fp32, shape (rows, labels); their softmax is the labels' probability. The
        labels of the batch are not looked at."""


def labels_of(scores: Tensor) -> Tensor:
    """The label of each row's highest score; NO_LABEL where one is NaN or infinite, which argmax would take for it."""
    return torch.where(scores.isfinite().all(-1), scores.argmax(-1), NO_LABEL)


def base_model(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


IGNORED = -100
"""A target that no loss is taken of."""


def pad(rows: Sequence[Sequence[int]], pad_id: int, multiple: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both int64 (rows, longest row rounded up to `multiple`)."""
    longest = max(map(len, rows))
    width = -(-longest // multiple) * multiple
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    return ids, mask
