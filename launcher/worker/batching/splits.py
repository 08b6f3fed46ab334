"""Prepared splits, opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from launcher.rundir.prepared import SplitFacts
from launcher.worker.batching.packing import Packed, packs

if TYPE_CHECKING:
    from datasets import Dataset


def open_split(facts: SplitFacts) -> Dataset:
    """A tokenised split, memory-mapped: columns input_ids (list of int32), labels (int64) where there are any, and a task's own."""
    from datasets import load_from_disk

    return load_from_disk(facts.path)


def packed(rows: Dataset, max_length: int) -> Packed:
    """The rows, several to a sequence of at most `max_length` tokens."""
    count = lengths(rows)
    return Packed(rows, packs(count, max_length), count)


def lengths(rows: Dataset | Packed) -> np.ndarray:
    """Tokens of each row, from the offsets of the arrow column: no row is read. Of packs, those of all their rows."""
    if isinstance(rows, Packed):
        return rows.lengths
    column = rows.data.column("input_ids")
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.concatenate(counts) if counts else np.zeros(0, np.int32)
