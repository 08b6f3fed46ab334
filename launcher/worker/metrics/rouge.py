"""The overlap of words, as rouge-score counts it."""

from __future__ import annotations

from collections.abc import Sequence

from rouge_score import rouge_scorer

from launcher.worker.metrics.words import is_chinese, segmented


class _Segments:
    """In the place of one of rouge-score's tokenizers."""

    def tokenize(self, text: str) -> list[str]:
        return segmented(text)


def rouge1(texts: Sequence[str], references: Sequence[str]) -> float:
    return _mean("rouge1", texts, references)


def rouge2(texts: Sequence[str], references: Sequence[str]) -> float:
    return _mean("rouge2", texts, references)


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> float:
    return _mean("rougeL", texts, references)


def _mean(kind: str, texts: Sequence[str], references: Sequence[str]) -> float:
    """The mean of the rows' F-measures. Where a row has Chinese in it, jieba finds its words: rouge-score's own tokenizer
    keeps nothing but a to z and digits."""
    plain, chinese = (rouge_scorer.RougeScorer([kind], tokenizer=words) for words in (None, _Segments()))
    scores = [
        (chinese if is_chinese(reference + text) else plain).score(reference, text)[kind].fmeasure
        for text, reference in zip(texts, references, strict=True)
    ]
    return sum(scores) / len(scores)
