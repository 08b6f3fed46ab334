"""torch's cross entropies."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from launcher.worker.losses.base import Weighted


class CrossEntropy(Weighted):
    """The negative log-likelihood of the label; of rows with several labels, the mean over labels of each one's own."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._losses(logits, targets, self._weights(logits), self._settings.smoothing)

    def of_rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._losses(logits, targets, None, 0.0)

    def _losses(self, logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        if not self._settings.has_many_labels:
            return functional.cross_entropy(
                logits, targets, weight=weights, reduction="none", label_smoothing=smoothing
            )
        smooth = targets.float() * (1 - smoothing) + smoothing / 2  # between the two: there and not there
        losses = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none", pos_weight=weights)
        return losses.mean(-1)
