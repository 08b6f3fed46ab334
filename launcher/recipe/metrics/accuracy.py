"""The share of rows whose label is right; of many labels, of rows whose labels are all right; of tags, of words."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL, TAGS

ACCURACY = Metric(
    interface=INTERFACE,
    name="accuracy",
    computation="launcher.worker.metrics.accuracy:compute",
    greater_is_better=True,
    label="accuracy",
    heading="Accuracy",
    in_panel=True,
    targets=frozenset({ONE_LABEL, MANY_LABELS, TAGS}),
)
