"""Precision of the sequences of one to four words of all texts, with a penalty for short ones."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, OF_GENERATION, Metric
from launcher.recipe.tasks.table import TOKENS

BLEU = Metric(
    interface=INTERFACE,
    name="bleu",
    computation="launcher.worker.metrics.bleu:compute",
    greater_is_better=True,
    label="BLEU",
    heading="BLEU",
    columns=OF_GENERATION,
    keywords=(),
    unit="points of 100",
    needs=("sacrebleu",),
    targets=frozenset({TOKENS}),
)
