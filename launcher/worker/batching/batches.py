"""Which rows go into which batch on which rank. Pure functions of lengths, seed and epoch: ranks agree without talking.

The unit is the global batch, the rows of one optimizer step. Its rows, and their order, do not depend on how many
ranks share it or how it is split into micro batches, so neither does the loss curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from launcher.planning.plan import Batch

Order = Literal["group_by_length", "random", "sequential"]

GROUP_BATCHES = 50
"""Global batches that are sorted by length together: long enough to save padding, short enough to stay random."""


def global_batches(
    lengths: Sequence[int] | np.ndarray,
    *,
    global_size: int,
    seed: int,
    epoch: int,
    order: Order,
    drop_last: bool = False,
) -> list[list[int]]:
    """Row numbers of one epoch, a list for each optimizer step, each of exactly `global_size` rows.

    The last batch is filled from the start of the epoch's order again, so every row is seen at least once; with
    `drop_last` it is left out instead. Rows within a batch go from long to short, so that a micro batch pads little.

    Args:
        lengths: tokens of each row.
        global_size: rows in one optimizer step.
        seed: of the whole run; the same on all ranks.
        epoch: from 0; each epoch has its own order.
        order: `group_by_length` puts rows of like length together, and the batch with the longest row first, so
            that a row too long for the memory shows itself at once.
        drop_last: leave out the last, partial batch.
    """
    size = np.asarray(lengths)
    random = np.random.default_rng([seed, epoch])
    rows = np.arange(len(size)) if order == "sequential" else random.permutation(len(size))
    whole = len(rows) // global_size
    num_batches = whole if drop_last and whole else -(-len(rows) // global_size)
    rows = np.resize(rows, num_batches * global_size)
    if order == "group_by_length":
        group = global_size * GROUP_BATCHES
        rows = np.concatenate([_long_first(rows[i : i + group], size) for i in range(0, len(rows), group)])
    batches = [_long_first(rows[i : i + global_size], size) for i in range(0, len(rows), global_size)]
    if order == "group_by_length":
        batches = [batches[i] for i in random.permutation(len(batches))]
        longest = max(range(len(batches)), key=lambda i: size[batches[i][0]])
        batches[0], batches[longest] = batches[longest], batches[0]
    return [batch.tolist() for batch in batches]


def _long_first(rows: np.ndarray, size: np.ndarray) -> np.ndarray:
    return rows[np.argsort(-size[rows], kind="stable")]


class RankBatches:
    """One rank's micro batches of every epoch: a `batch_sampler` for DataLoader.

    Micro step a of a global batch holds its rows a x micro x ranks and on, and each rank a run of them, so that the
    rows of a micro step are of like length on all ranks.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch: Batch,
        *,
        rank: int,
        world_size: int,
        seed: int,
        order: Order,
        drop_last: bool = False,
    ) -> None:
        assert batch.global_size == batch.micro_size * batch.accumulation * world_size
        self._lengths = lengths
        self._batch = batch
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._order: Order = order
        self._drop_last = drop_last
        self._epoch = 0
        whole = len(lengths) // batch.global_size
        self._num_steps = whole if drop_last and whole else -(-len(lengths) // batch.global_size)

    @property
    def batch_sampler(self) -> RankBatches:
        """Itself: Trainer tells the epoch to the sampler that it expects inside an accelerate wrapper."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Take the order of `epoch`, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_steps * self._batch.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        micro = self._batch.micro_size
        for rows in global_batches(
            self._lengths,
            global_size=self._batch.global_size,
            seed=self._seed,
            epoch=self._epoch,
            order=self._order,
            drop_last=self._drop_last,
        ):
            for step in range(self._batch.accumulation):
                start = (step * self._world_size + self._rank) * micro
                yield rows[start : start + micro]


def eval_batches(
    lengths: Sequence[int] | np.ndarray, *, size: int, rank: int, world_size: int
) -> list[tuple[list[int], bool]]:
    """One rank's evaluation batches, and whether each one counts.

    Every rank gets the same number, since the collectives inside a sharded forward wait for all. A rank that has no
    batch left in the last round runs the shortest batch again and does not count it.
    """
    rows = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    rounds = -(-len(batches) // world_size)
    numbers = [r * world_size + rank for r in range(rounds)]
    return [(batches[min(n, len(batches) - 1)], n < len(batches)) for n in numbers]
