"""A function of the user's that gives the sum of a micro batch's losses."""

from __future__ import annotations

import torch
from torch import Tensor

from launcher.worker.losses.base import Loss, Settings


class Users(Loss):
    """A sum over rows is all that is asked of it: of one row alone it is that row's loss."""

    def __init__(self, settings: Settings) -> None:
        assert settings.function is not None
        self._function = settings.function

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._function(logits, targets)

    def of_rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        rows = zip(logits.split(1), targets.split(1), strict=True)
        return torch.stack([self._function(*row).reshape(()) for row in rows]).float()
