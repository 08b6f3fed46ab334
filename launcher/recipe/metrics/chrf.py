"""The overlap of sequences of one to six characters of all texts."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, OF_GENERATION, Metric
from launcher.recipe.tasks.table import TOKENS

CHRF = Metric(
    interface=INTERFACE,
    name="chrf",
    computation="launcher.worker.metrics.chrf:compute",
    greater_is_better=True,
    label="chrF",
    heading="chrF",
    columns=OF_GENERATION,
    keywords=(),
    unit="points of 100",
    needs=("sacrebleu",),
    targets=frozenset({TOKENS}),
)
