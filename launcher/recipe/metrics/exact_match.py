"""The share of texts that are the reference, but for white space around them."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, OF_GENERATION, Metric
from launcher.recipe.tasks.table import TOKENS

EXACT_MATCH = Metric(
    interface=INTERFACE,
    name="exact_match",
    computation="launcher.worker.metrics.exact_match:compute",
    greater_is_better=True,
    label="exact match",
    heading="Exact match",
    in_panel=True,
    columns=OF_GENERATION,
    keywords=(),
    targets=frozenset({TOKENS}),
)
