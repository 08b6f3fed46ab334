"""The correlation of the ranks of values and predictions."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import ONE_LABEL, VALUES

SPEARMAN = Metric(
    interface=INTERFACE,
    name="spearman",
    computation="launcher.worker.metrics.spearman:compute",
    greater_is_better=True,
    label="Spearman correlation",
    heading="Spearman",
    unit="rank correlation",
    targets=frozenset({ONE_LABEL, VALUES}),
)
