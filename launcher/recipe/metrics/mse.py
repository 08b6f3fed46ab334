"""The mean squared distance between value and prediction."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import VALUES

MSE = Metric(
    interface=INTERFACE,
    name="mse",
    computation="launcher.worker.metrics.mse:compute",
    greater_is_better=False,
    label="mean squared error",
    heading="MSE",
    unit="squared distance",
    targets=frozenset({VALUES}),
)
