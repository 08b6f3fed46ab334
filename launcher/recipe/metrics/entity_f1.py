"""The harmonic mean of precision and recall of named entities."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import TAGS

ENTITY_F1 = Metric(
    interface=INTERFACE,
    name="entity_f1",
    computation="launcher.worker.metrics.entity_f1:compute",
    greater_is_better=True,
    label="entity F1",
    heading="Entity F1",
    in_panel=True,
    keywords=("label_names",),
    needs=("seqeval",),
    targets=frozenset({TAGS}),
)
