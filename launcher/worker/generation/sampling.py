"""Tokens that are drawn, each row by numbers of its own, so that its text depends on neither ranks, restarts nor its neighbours
in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


def row_seed(seed: int, row: int) -> int:
    """Of a row's generator: rows of one seed, and one row of several seeds, have nothing in common."""
    digest = hashlib.sha256(f"{seed} {row}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class RowSampling(LogitsProcessor):
    """Leaves of each row's scores the token that is drawn by them, for a search that takes the best.

    The last of the processors. One number from 0 to 1 is taken of each row's generator a step, and says how far along the
    cumulated probabilities the token is.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        """`seeds`: of the rows of the batch, in order."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        numbers = torch.stack([torch.rand((), generator=one, dtype=torch.float64) for one in self._generators])
        tokens = drawn(torch.softmax(scores.float(), -1), numbers.float().to(scores.device))
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens[:, None], 0.0)


def drawn(shares: Tensor, numbers: Tensor) -> Tensor:
    """The token of each row where its cumulated shares first exceed the row's number from 0 to 1; none without a share."""
    sums = shares.cumsum(-1)
    total = sums[:, -1:]
    tokens = (sums <= numbers[:, None] * total).sum(-1)
    last = (sums < total).sum(-1)  # the first at which all are summed up; a number may be rounded up to 1
    return torch.minimum(tokens, last)
