"""The linear correlation of values and predictions."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import ONE_LABEL, VALUES

PEARSON = Metric(
    interface=INTERFACE,
    name="pearson",
    computation="launcher.worker.metrics.pearson:compute",
    greater_is_better=True,
    label="Pearson correlation",
    heading="Pearson",
    unit="correlation",
    targets=frozenset({ONE_LABEL, VALUES}),
)
