"""How rows become tokens, without torch: what a preparation and a preview need of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Marked = tuple[np.ndarray, np.ndarray]
"""Ids, and 1 for each that is trained."""


class Seen(NamedTuple):
    """A row, and what it becomes."""

    whole: Marked
    """Before it is cut."""
    parts: list[Marked]
    """The rows that it becomes."""
    thoughts_left_out: int = 0
    """Messages whose thoughts the chat template leaves out."""
    is_split: bool = False
    """Whether it was too long and split, of which parts with nothing to train are left out."""


@dataclass(frozen=True)
class Encoder:
    """How texts become ids, and everything that the ids depend on besides the tokenizer."""

    ids: Callable[[list[Any]], list[Sequence[int]]]
    """Of rows that are to be answered, as launcher.jobs.rows reads them for `predict`: texts, or conversations."""
    settings: dict[str, Any]
    answer_ids: tuple[tuple[int, ...], ...] | None = None
    """The tokens of each label's answer, where labels have answers."""
    rows: Callable[[Mapping[str, list[Any]]], Mapping[str, list[Sequence[int]]]] | None = None
    """From the columns that the task reads, of some rows, to columns of whole numbers: `input_ids`, and what else `columns`
    names. There may be fewer rows than there were, where several become one. None where the ids of the text are all."""
    columns: tuple[str, ...] = ("input_ids",)
    seen: Callable[[Mapping[str, list[Any]]], list[Seen]] | None = None
    """From the same columns as `rows`, what becomes of each row. None where that is the ids, and the label's answer."""
    texts: tuple[str, ...] = ()
    """Columns of `rows` that are texts, or None, beside those of whole numbers."""
    of_evaluated: Encoder | None = None
    """Of the rows that are evaluated, where these have more columns."""
    notes: tuple[str, ...] = ()
    """What the user should know about how rows become ids."""
    left_out: str = ""
    """Why `rows` may leave some out; '' where it does not."""
    labelled: str = ""
    """The column that has an item for each of a row's labels that is looked at, the first ones; '' where a row has one."""
    cut: str = ""
    """What those are, of which there is none, and why."""
