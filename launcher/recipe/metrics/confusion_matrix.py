"""How many rows of each label are given which."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import ONE_LABEL

CONFUSION_MATRIX = Metric(
    interface=INTERFACE,
    name="confusion_matrix",
    computation="launcher.worker.metrics.confusion_matrix:compute",
    greater_is_better=None,
    label="confusion matrix",
    heading="Confusion matrix",
    targets=frozenset({ONE_LABEL}),
)
