"""The root of the mean squared distance between value and prediction."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import VALUES

RMSE = Metric(
    interface=INTERFACE,
    name="rmse",
    computation="launcher.worker.metrics.rmse:compute",
    greater_is_better=False,
    label="root mean squared error",
    heading="RMSE",
    unit="distance to the label",
    targets=frozenset({VALUES}),
)
