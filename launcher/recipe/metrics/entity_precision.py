"""Of the named entities that are predicted, the share that are right in place and kind."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import TAGS

ENTITY_PRECISION = Metric(
    interface=INTERFACE,
    name="entity_precision",
    computation="launcher.worker.metrics.entity_precision:compute",
    greater_is_better=True,
    label="entity precision",
    heading="Entity precision",
    keywords=("label_names",),
    needs=("seqeval",),
    targets=frozenset({TAGS}),
)
