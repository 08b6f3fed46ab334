"""torch's mse_loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from launcher.worker.losses.base import Loss, Settings


class MeanSquaredError(Loss):
    """The mean over a row's values of the squared difference."""

    def __init__(self, settings: Settings) -> None:
        pass  # it has no parameters

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.of_rows(logits, targets)

    def of_rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(logits, targets.float(), reduction="none").flatten(1).mean(-1)
