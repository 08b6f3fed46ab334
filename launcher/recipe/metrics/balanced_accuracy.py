"""The mean of the recalls of the labels that occur."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import ONE_LABEL

BALANCED_ACCURACY = Metric(
    interface=INTERFACE,
    name="balanced_accuracy",
    computation="launcher.worker.metrics.balanced_accuracy:compute",
    greater_is_better=True,
    label="balanced accuracy",
    heading="Balanced accuracy",
    targets=frozenset({ONE_LABEL}),
)
