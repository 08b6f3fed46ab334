"""A loss of another package: torch's multi_margin_loss, in both halves. Its module must not import torch at its top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from launcher.recipe.tasks.table import ONE_LABEL

if TYPE_CHECKING:
    from torch import Tensor

    from launcher.worker.losses.base import Loss, Settings


class Margin:
    interface = 1
    name = "margin"
    worker = "margin_loss:in_ranks"
    targets = frozenset({ONE_LABEL})
    parameters: Mapping[str, str] = {"margin": "By how much the label's logit has to be the highest."}
    takes_class_weights = False
    takes_smoothing = False

    def problems(self, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if parameters.get("margin", 1.0) <= 0:
            yield "margin", "has to be above 0"


MARGIN = Margin()


def in_ranks(settings: Settings) -> Loss:
    from torch.nn import functional

    from launcher.worker.losses.base import Loss

    class InRanks(Loss):
        def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
            return self.of_rows(logits, targets)

        def of_rows(self, logits: Tensor, targets: Tensor) -> Tensor:
            margin = settings.parameters.get("margin", 1.0)
            return functional.multi_margin_loss(logits, targets, margin=margin, reduction="none")

    return InRanks()
