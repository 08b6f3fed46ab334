"""The overlap of words, of pairs of words, and of the longest common sequence, of a text and its reference."""

from __future__ import annotations

from launcher.recipe.metrics.table import INTERFACE, OF_GENERATION, Metric
from launcher.recipe.tasks.table import TOKENS

ROUGE1 = Metric(
    interface=INTERFACE,
    name="rouge1",
    computation="launcher.worker.metrics.rouge:rouge1",
    greater_is_better=True,
    label="ROUGE-1",
    heading="ROUGE-1",
    columns=OF_GENERATION,
    keywords=(),
    needs=("rouge-score", "jieba"),
    targets=frozenset({TOKENS}),
)

ROUGE2 = Metric(
    interface=INTERFACE,
    name="rouge2",
    computation="launcher.worker.metrics.rouge:rouge2",
    greater_is_better=True,
    label="ROUGE-2",
    heading="ROUGE-2",
    columns=OF_GENERATION,
    keywords=(),
    needs=("rouge-score", "jieba"),
    targets=frozenset({TOKENS}),
)

ROUGE_L = Metric(
    interface=INTERFACE,
    name="rougeL",
    computation="launcher.worker.metrics.rouge:rouge_l",
    greater_is_better=True,
    label="ROUGE-L",
    heading="ROUGE-L",
    in_panel=True,
    columns=OF_GENERATION,
    keywords=(),
    needs=("rouge-score", "jieba"),
    targets=frozenset({TOKENS}),
)
