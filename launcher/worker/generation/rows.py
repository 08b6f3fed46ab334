"""Which rows of an evaluation are written, and in which batches. Pure functions: ranks agree without talking.

A batch has the same rows at any number of ranks, so that what a row's neighbours round is the same, and its text too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from launcher.errors import LaunchError
from launcher.worker.batching.batches import eval_batches


class Round(NamedTuple):
    """What one rank does while each of the others does as much."""

    rows: list[int]
    counts: bool
    """False where there is nothing left for this rank: it has others' rows, for where it must keep step."""
    done: int
    """Rows that all ranks have written after it."""


def longest(positions: int | None, *, new_tokens: int, max_length: int) -> int:
    """Tokens that a prompt may have.

    Args:
        positions: that the model has; None where it says none.
        new_tokens: of a text, at most.
        max_length: of the recipe's rows, which counts where the model says none.

    Raises:
        LaunchError: a text alone may take all positions.
    """
    if positions is None:
        return max_length
    if new_tokens >= positions:
        raise LaunchError(
            "generation.max_new_tokens: {new_tokens} leaves no room for a prompt: the model has {positions} positions",
            hint="set a smaller generation.max_new_tokens",
            new_tokens=new_tokens,
            positions=positions,
        )
    return positions - new_tokens


def chosen(lengths: Sequence[int] | np.ndarray, *, longest: int, limit: int | None, seed: int) -> list[int]:
    """Numbers of the rows that are written, in order.

    Args:
        lengths: tokens of each row's prompt; 0 where it has none.
        longest: tokens that a prompt may have.
        limit: how many at most; which ones follows from the seed.
    """
    size = np.asarray(lengths)
    rows = np.flatnonzero((size > 0) & (size <= longest))
    if limit is not None and limit < len(rows):
        rows = np.random.default_rng(seed).permutation(rows)[:limit]
    out: list[int] = np.sort(rows).tolist()
    return out


def rounds(
    rows: Sequence[int], lengths: Sequence[int] | np.ndarray, *, size: int, rank: int, world_size: int
) -> Iterator[Round]:
    """One rank's share of these rows, longest prompts first, in batches of `size`."""
    own = np.asarray(lengths)[list(rows)]
    for number, (batch, counts) in enumerate(eval_batches(own, size=size, rank=rank, world_size=world_size), 1):
        yield Round([rows[i] for i in batch], counts, min(number * world_size * size, len(rows)))
