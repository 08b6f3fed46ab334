"""Of the named entities, the share that are predicted in place and kind."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import TAGS

ENTITY_RECALL = Metric(
    interface=INTERFACE,
    name="entity_recall",
    computation="launcher.worker.metrics.entity_recall:compute",
    greater_is_better=True,
    label="entity recall",
    heading="Entity recall",
    keywords=("label_names",),
    needs=("seqeval",),
    targets=frozenset({TAGS}),
)
