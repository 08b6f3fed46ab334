"""The overlap of the words of a text and its reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from launcher.worker.metrics.words import bare, tokens


def compute(texts: Sequence[str], references: Sequence[str]) -> float:
    """The mean over rows of F1 over words, as SQuAD's evaluation counts it, and over characters where they are Chinese."""
    return sum(map(_of_row, texts, references)) / len(references)


def _of_row(text: str, reference: str) -> float:
    own, wanted = tokens(bare(text)), tokens(bare(reference))
    common = (Counter(own) & Counter(wanted)).total()
    if not own or not wanted:  # nothing is as it should be only where there is to be nothing
        return float(own == wanted)
    return 2 * common / (len(own) + len(wanted))
