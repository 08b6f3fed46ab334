"""What a loss is in ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from launcher.worker.losses.weights import LabelWeights

Function = Callable[[Tensor, Tensor], Tensor]
"""A function of the user's: from logits and targets to the sum of the rows' losses."""


@dataclass(frozen=True)
class Settings:
    """What a recipe says of its loss."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the loss itself, by the other half's names."""
    smoothing: float = 0.0
    """label_smoothing_factor."""
    weights: LabelWeights | None = None
    """In a training with class weights."""
    has_many_labels: bool = False
    """Whether a row has any number of labels."""
    function: Function | None = None
    """The user's own, where the recipe names one."""


class Loss:
    """The half of a loss that runs in ranks, made of `Settings`.

    Logits are fp32: (n, labels), or (n, values). Targets are whole numbers, (n,); of rows with several labels 0.0 and
    1.0, and of rows with values those, as logits are.
    """

    weights: LabelWeights | None = None
    """By which a step's sum is divided, in place of the number of targets."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What a training sums, of any shape: with class weights and label smoothing."""
        raise NotImplementedError

    def of_rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(n,): what an evaluation leaves of each row, without either, so that evaluations can be compared."""
        raise NotImplementedError

    def count(self, targets: Tensor) -> int | float:
        """By what the sum of the losses of a step's targets is divided: their number, or the sum of their weights."""
        return len(targets) if self.weights is None else self.weights.count(targets)


class Weighted(Loss):
    """A loss that follows class weights.

    Of rows with one label each the sum is divided by the sum of the labels' weights, as torch's cross_entropy does. Of rows
    with several a weight is torch's pos_weight, and the rows are counted.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.weights = None if settings.has_many_labels else settings.weights

    def _weights(self, logits: Tensor) -> Tensor | None:
        return None if self._settings.weights is None else self._settings.weights.on(logits.device)
