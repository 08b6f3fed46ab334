"""The mean distance between value and prediction; of labels, between their numbers."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import ONE_LABEL, VALUES

MAE = Metric(
    interface=INTERFACE,
    name="mae",
    computation="launcher.worker.metrics.mae:compute",
    greater_is_better=False,
    label="mean absolute error",
    heading="MAE",
    unit="distance to the label",
    targets=frozenset({ONE_LABEL, VALUES}),
)
