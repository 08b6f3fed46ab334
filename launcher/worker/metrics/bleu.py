"""BLEU, as sacreBLEU counts it."""

from __future__ import annotations

from collections.abc import Sequence

import sacrebleu

from launcher.worker.metrics.words import are_chinese


def compute(texts: Sequence[str], references: Sequence[str]) -> float:
    """Of all rows together. sacreBLEU's tokenizer `zh` where a reference has Chinese in it, which leaves other words as
    its default does."""
    words = "zh" if are_chinese(references) else "13a"
    return float(sacrebleu.corpus_bleu(list(texts), [list(references)], tokenize=words).score)
