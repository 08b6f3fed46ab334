"""The harmonic mean of precision and recall of named entities."""

from __future__ import annotations

from collections.abc import Sequence

import seqeval.metrics

from launcher.worker.metrics.entities import Tags, entity_score


def compute(true: Tags, predicted: Tags, *, label_names: Sequence[str]) -> float:
    return entity_score(seqeval.metrics.f1_score, true, predicted, label_names)
