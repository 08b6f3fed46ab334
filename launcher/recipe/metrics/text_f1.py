"""The overlap of the words of a text and its reference; the mean over rows."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, OF_GENERATION, Metric
from launcher.recipe.tasks.table import TOKENS

TEXT_F1 = Metric(
    interface=INTERFACE,
    name="text_f1",
    computation="launcher.worker.metrics.text_f1:compute",
    greater_is_better=True,
    label="text F1",
    heading="Text F1",
    columns=OF_GENERATION,
    keywords=(),
    targets=frozenset({TOKENS}),
)
