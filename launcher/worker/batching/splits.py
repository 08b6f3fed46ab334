"""Prepared splits, opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from launcher.rundir.prepared import SplitFacts

if TYPE_CHECKING:
    from datasets import Dataset


def open_split(facts: SplitFacts) -> Dataset:
    """A tokenised split, memory-mapped: columns input_ids (list of int32) and labels (int64)."""
    from datasets import load_from_disk

    return load_from_disk(facts.path)


def lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row, from the offsets of the arrow column: no row is read."""
    column = rows.data.column("input_ids")
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.concatenate(counts) if counts else np.zeros(0, np.int32)
