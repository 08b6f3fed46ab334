"""The harmonic mean of a label's precision and recall."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, Metric
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL, TAGS

F1 = Metric(
    interface=INTERFACE,
    name="f1",
    computation="launcher.worker.metrics.f1:compute",
    greater_is_better=True,
    label="F1",
    heading="F1",
    is_macro_average=True,
    targets=frozenset({ONE_LABEL, MANY_LABELS, TAGS}),
)

F1_WEIGHTED = Metric(
    interface=INTERFACE,
    name="f1_weighted",
    computation="launcher.worker.metrics.f1:weighted",
    greater_is_better=True,
    label="weighted F1",
    heading="F1 (weighted)",
    targets=frozenset({ONE_LABEL, MANY_LABELS, TAGS}),
)

F1_MICRO = Metric(
    interface=INTERFACE,
    name="f1_micro",
    computation="launcher.worker.metrics.f1:micro",
    greater_is_better=True,
    label="micro F1",
    heading="F1 (micro)",
    targets=frozenset({ONE_LABEL, MANY_LABELS, TAGS}),
)
