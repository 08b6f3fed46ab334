"""The share of the values' variance that predictions explain; below 0 where their mean would be better."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import VALUES

R2 = Metric(
    interface=INTERFACE,
    name="r2",
    computation="launcher.worker.metrics.r2:compute",
    greater_is_better=True,
    label="R2",
    heading="R2",
    unit="share of the variance",
    targets=frozenset({VALUES}),
)
