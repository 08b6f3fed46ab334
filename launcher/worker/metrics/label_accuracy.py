"""Texts that name the label that is their reference."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from launcher.worker.metrics.words import bare, is_chinese


def compute(texts: Sequence[str], references: Sequence[str]) -> float:
    """The share of rows in whose text the reference is the first label that is named; labels are the references of all rows.
    Case and punctuation do not count."""
    labels = {bare(reference) for reference in references} - {""}
    pattern = _pattern(labels)
    return sum(
        _label(text, pattern) == bare(reference) for text, reference in zip(texts, references, strict=True)
    ) / len(references)


def _pattern(labels: Iterable[str]) -> re.Pattern[str]:
    # The longest one that begins at a place: `very good` before `very`. Chinese has no spaces between words.
    longest = sorted(labels, key=lambda label: (-len(label), label))
    return re.compile(
        "|".join(re.escape(one) if is_chinese(one) else rf"(?<!\w){re.escape(one)}(?!\w)" for one in longest)
    )


def _label(text: str, pattern: re.Pattern[str]) -> str:
    match = pattern.search(bare(text)) if pattern.pattern else None
    return match[0] if match else ""
