"""The share of texts in which the reference is the first of all labels that are references."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, OF_GENERATION, Metric
from launcher.recipe.tasks.table import TOKENS

LABEL_ACCURACY = Metric(
    interface=INTERFACE,
    name="label_accuracy",
    computation="launcher.worker.metrics.label_accuracy:compute",
    greater_is_better=True,
    label="label accuracy",
    heading="Label accuracy",
    columns=OF_GENERATION,
    keywords=(),
    scores_rows=False,  # the labels are those of all rows
    targets=frozenset({TOKENS}),
)
