"""The focal loss of Lin et al. (2017), equation 5: FL(p) = -alpha (1 - p)^gamma log(p)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from launcher.recipe.losses.focal import GAMMA
from launcher.worker.losses.base import Weighted

_LEAST = 1e-12
"""Of 1 - p: with a gamma below 1 the gradient of a power of 0 is infinite."""


class Focal(Weighted):
    """Over the softmax of rows with one label, and over each label's sigmoid of rows with several, whose mean counts."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._losses(logits, targets, self._weights(logits))

    def of_rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._losses(logits, targets, None)

    def _losses(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        if self._settings.has_many_labels:
            log_p = functional.logsigmoid(torch.where(targets.bool(), logits, -logits))
            alpha = None if weights is None else torch.where(targets.bool(), weights, 1.0)
            return self._modulated(log_p, alpha).mean(-1)
        log_p = torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0]
        return self._modulated(log_p, None if weights is None else weights[targets])

    def _modulated(self, log_p: Tensor, alpha: Tensor | None) -> Tensor:
        gamma = float(self._settings.parameters.get("gamma", GAMMA))
        losses = -((-torch.expm1(log_p)).clamp(min=_LEAST) ** gamma) * log_p
        return losses if alpha is None else alpha * losses
