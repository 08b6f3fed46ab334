"""Of the rows that have a label, the share that are given it."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL, TAGS

RECALL = Metric(
    interface=INTERFACE,
    name="recall",
    computation="launcher.worker.metrics.recall:compute",
    greater_is_better=True,
    label="recall",
    heading="Recall",
    is_macro_average=True,
    targets=frozenset({ONE_LABEL, MANY_LABELS, TAGS}),
)

RECALL_WEIGHTED = Metric(
    interface=INTERFACE,
    name="recall_weighted",
    computation="launcher.worker.metrics.recall:weighted",
    greater_is_better=True,
    label="weighted recall",
    heading="Recall (weighted)",
    targets=frozenset({ONE_LABEL, MANY_LABELS, TAGS}),
)
