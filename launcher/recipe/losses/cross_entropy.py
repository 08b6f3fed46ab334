"""The negative log-likelihood of the label; of rows with several labels, the mean of each label's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL, TAGS, TOKENS


class CrossEntropy:
    """torch's cross_entropy, and binary_cross_entropy_with_logits of rows with several labels."""

    interface = 1
    name = "cross-entropy"
    worker = "launcher.worker.losses.cross_entropy:CrossEntropy"
    targets = frozenset({ONE_LABEL, MANY_LABELS, TAGS, TOKENS})
    parameters: Mapping[str, str] = {}
    takes_class_weights = True
    takes_smoothing = True

    def problems(self, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from ()


CROSS_ENTROPY = CrossEntropy()
