"""Class weights as a loss takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LabelWeights:
    """A weight for each label."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._numbers = tuple(weights)
        self._tensor = torch.tensor(self._numbers, dtype=torch.float32)

    def on(self, device: torch.device) -> Tensor:
        """fp32, (labels,)."""
        if self._tensor.device != device:
            self._tensor = self._tensor.to(device)  # once, and not in every step
        return self._tensor

    def count(self, labels: Tensor) -> float:
        """The sum of these labels' weights."""
        rows = torch.bincount(labels.flatten(), minlength=len(self._numbers)).tolist()
        return float(sum(number * weight for number, weight in zip(rows, self._numbers, strict=True)))
