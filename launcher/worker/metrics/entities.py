"""The named entities of tagged rows, as seqeval counts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Tags = Sequence[Sequence[int]]


def entity_score(score: Any, true: Tags, predicted: Tags, label_names: Sequence[str]) -> float:
    """seqeval's score over all entities together.

    Args:
        true: the number of each word's label, for each row.
        label_names: tags of a scheme that marks where an entity begins, as B-PER and I-PER.
    """
    return float(score(_named(true, label_names), _named(predicted, label_names), zero_division=0))


def _named(rows: Tags, label_names: Sequence[str]) -> list[list[str]]:
    names = np.array(label_names, dtype=object)
    return [names[np.asarray(row, dtype=np.int64)].tolist() for row in rows]
