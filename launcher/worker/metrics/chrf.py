"""chrF, as sacreBLEU counts it."""

from __future__ import annotations

from collections.abc import Sequence

import sacrebleu


def compute(texts: Sequence[str], references: Sequence[str]) -> float:
    """Of all rows together."""
    return float(sacrebleu.corpus_chrf(list(texts), [list(references)]).score)
