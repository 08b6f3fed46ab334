"""Prepared splits, opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.rundir.prepared import SplitFacts
from launcher.worker.batching.packing import Packed, packs

if TYPE_CHECKING:
    from datasets import Dataset


def open_split(facts: SplitFacts) -> Dataset:
    """A tokenised split, memory-mapped: columns input_ids (list of int32), labels (int64) where there are any, and a task's own."""
    from datasets import load_from_disk

    return load_from_disk(facts.path)


def open_splits(sets: Sequence[SplitFacts]) -> Dataset:
    """The rows of several, one set after the other."""
    from datasets import concatenate_datasets

    opened = [open_split(facts) for facts in sets]
    return opened[0] if len(opened) == 1 else concatenate_datasets(opened)


def about(sets: Sequence[SplitFacts]) -> dict[str, list[Any]]:
    """Of the rows of several, what predictions.jsonl repeats of the data: their ids, and texts where these are asked for.
    Rows of a set that has no such column have None."""
    from datasets import load_from_disk

    opened = [load_from_disk(facts.about).to_dict() if facts.about else {} for facts in sets]
    names = dict.fromkeys(name for columns in opened for name in columns)
    nones = [[None] * facts.rows for facts in sets]
    return {
        name: [value for columns, none in zip(opened, nones, strict=True) for value in columns.get(name, none)]
        for name in names
    }


def parts(sets: Mapping[str, SplitFacts]) -> dict[str, slice]:
    """Where each set's rows are among those of all, which follow each other."""
    ends = np.cumsum([facts.rows for facts in sets.values()]).tolist()
    return {name: slice(end - facts.rows, end) for (name, facts), end in zip(sets.items(), ends, strict=True)}


def packed(rows: Dataset, max_length: int) -> Packed:
    """The rows, several to a sequence of at most `max_length` tokens."""
    count = lengths(rows)
    return Packed(rows, packs(count, max_length), count)


def lengths(rows: Dataset | Packed, name: str = "input_ids") -> np.ndarray:
    """Tokens of each row, or items of another column, from the offsets of the arrow column: no row is read. Of packs, those of
    all their rows."""
    if isinstance(rows, Packed):
        return rows.lengths
    column = rows.data.column(name)
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.concatenate(counts) if counts else np.zeros(0, np.int32)
