"""Of the rows that are given a label, the share that have it."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL, TAGS

PRECISION = Metric(
    interface=INTERFACE,
    name="precision",
    computation="launcher.worker.metrics.precision:compute",
    greater_is_better=True,
    label="precision",
    heading="Precision",
    is_macro_average=True,
    targets=frozenset({ONE_LABEL, MANY_LABELS, TAGS}),
)

PRECISION_WEIGHTED = Metric(
    interface=INTERFACE,
    name="precision_weighted",
    computation="launcher.worker.metrics.precision:weighted",
    greater_is_better=True,
    label="weighted precision",
    heading="Precision (weighted)",
    targets=frozenset({ONE_LABEL, MANY_LABELS, TAGS}),
)
