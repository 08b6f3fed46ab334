"""Cross entropy in which rows that are easy already count less (Lin et al., Focal Loss for Dense Object Detection, 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.messages import Message
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL, TAGS, TOKENS

GAMMA = 2.0
"""The paper's own choice."""


class Focal:
    """-alpha (1 - p)^gamma log p, where p is the probability of the label, and alpha its class weight."""

    interface = 1
    name = "focal"
    worker = "launcher.worker.losses.focal:Focal"
    targets = frozenset({ONE_LABEL, MANY_LABELS, TAGS, TOKENS})
    parameters: Mapping[str, str] = {
        "gamma": "How much less what is easy counts: the loss is -(1 - p)^gamma log p. 0 is cross entropy, and 2 the default."
    }
    takes_class_weights = True
    takes_smoothing = False

    def problems(self, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        gamma = parameters.get("gamma", GAMMA)
        if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 <= gamma < float("inf"):
            yield "gamma", Message("expected a number from 0 on, got {value!r}", value=gamma)


FOCAL = Focal()
