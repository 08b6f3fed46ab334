"""Rows and their order depend on the recipe alone, never on how many ranks share the work."""

from __future__ import annotations

import random

import pytest

from launcher.planning.plan import Batch
from launcher.worker.batching.batches import RankBatches, eval_batches, global_batches

RANDOM = random.Random(3)
LENGTHS = [RANDOM.choice((5, 9, 20, 33, 80)) + i % 3 for i in range(101)]


def steps_of(ranks: int, micro: int, order: str = "group_by_length", epoch: int = 0) -> list[list[int]]:
    """The rows of each optimizer step, put together from what every rank gets."""
    accumulation = 12 // (ranks * micro)
    batch = Batch(global_size=12, micro_size=micro, accumulation=accumulation, eval_size=8)
    parts = []
    for rank in range(ranks):
        batches = RankBatches(LENGTHS, batch, rank=rank, world_size=ranks, seed=1, order=order)
        batches.set_epoch(epoch)
        parts.append(list(batches))
        assert len(batches) == len(parts[-1])
    steps = []
    for first in range(0, len(parts[0]), accumulation):
        steps.append([row for a in range(accumulation) for part in parts for row in part[first + a]])
    return steps


@pytest.mark.parametrize("order", ["group_by_length", "random", "sequential"])
@pytest.mark.parametrize(("ranks", "micro"), [(1, 4), (1, 12), (2, 3), (3, 1), (4, 3), (6, 2), (12, 1)])
def test_steps_are_the_same_however_they_are_split(ranks, micro, order):
    """Each optimizer step has the same rows in the same order at any rank count, micro batch and accumulation."""
    assert steps_of(1, 12, order) == steps_of(ranks, micro, order)


@pytest.mark.parametrize("order", ["group_by_length", "random", "sequential"])
def test_every_row_is_seen_and_the_last_batch_is_filled(order):
    """101 rows make 9 steps of 12: each row once, and 7 of them twice to fill the last step."""
    rows = [row for step in steps_of(2, 3, order) for row in step]

    assert 108 == len(rows)
    assert set(range(101)) == set(rows)


def test_epochs_differ():
    """Another epoch has another order of the same rows."""
    assert steps_of(1, 12, epoch=0) != steps_of(1, 12, epoch=1)


def test_drop_last_leaves_the_partial_step_out():
    """With drop_last 101 rows make 8 steps of 12."""
    batches = global_batches(LENGTHS, global_size=12, seed=1, epoch=0, order="random", drop_last=True)

    assert 8 == len(batches)


def test_fewer_rows_than_a_step_are_repeated():
    """5 rows fill a step of 12 by going round."""
    (rows,) = global_batches([1, 2, 3, 4, 5], global_size=12, seed=1, epoch=0, order="random")

    assert [2, 2, 2, 3, 3] == sorted(rows.count(i) for i in range(5))


def test_grouping_saves_padding_and_shows_the_longest_row_first():
    """Grouped micro batches pad less than random ones, and a row too long for the memory comes in the first step."""

    def padded(order):
        return sum(4 * max(LENGTHS[r] for r in step[i : i + 4]) for step in steps_of(1, 12, order) for i in (0, 4, 8))

    assert padded("group_by_length") < 0.85 * padded("random")
    assert max(LENGTHS) == LENGTHS[steps_of(1, 12)[0][0]]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 30])
def test_every_row_is_evaluated_once(ranks):
    """Batches that count hold each row once, and every rank has as many batches as any other."""
    parts = [eval_batches(LENGTHS, size=8, rank=rank, world_size=ranks) for rank in range(ranks)]
    counted = [row for part in parts for rows, counts in part if counts for row in rows]

    assert list(range(101)) == sorted(counted)
    assert 1 == len({len(part) for part in parts})
    assert all(rows for part in parts for rows, _ in part)
