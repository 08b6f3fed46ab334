"""The share of labels that are wrong."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL

HAMMING_LOSS = Metric(
    interface=INTERFACE,
    name="hamming_loss",
    computation="launcher.worker.metrics.hamming_loss:compute",
    greater_is_better=False,
    label="Hamming loss",
    heading="Hamming loss",
    unit="share of wrong labels",
    targets=frozenset({MANY_LABELS, ONE_LABEL}),
)
