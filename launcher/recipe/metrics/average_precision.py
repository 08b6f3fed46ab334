"""The area below precision over recall; the mean over labels."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL

AVERAGE_PRECISION = Metric(
    interface=INTERFACE,
    name="average_precision",
    computation="launcher.worker.metrics.average_precision:compute",
    greater_is_better=True,
    label="average precision",
    heading="Average precision",
    columns=("label", "probabilities"),
    targets=frozenset({ONE_LABEL, MANY_LABELS}),
)
