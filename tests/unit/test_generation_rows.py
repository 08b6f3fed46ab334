"""Which rows are written, by which rank, and beside which others."""

from __future__ import annotations

import numpy as np
import pytest

from launcher.errors import LaunchError
from launcher.worker.generation.rows import Round, chosen, longest, rounds
from launcher.worker.tasks import row_scores
from launcher.worker.tasks.predictions import Predictions

LENGTHS = [5, 0, 9, 7, 7, 3, 30, 8, 1, 6, 4, 2]
"""Tokens of the prompts of twelve rows, of which one has none and one is longer than any may be."""
ROWS = chosen(LENGTHS, longest=20, limit=None, seed=0)


def of(world_size: int) -> list[list[Round]]:
    return [list(rounds(ROWS, LENGTHS, size=3, rank=rank, world_size=world_size)) for rank in range(world_size)]


@pytest.mark.parametrize(("positions", "expected"), [(512, 412), (101, 1), (None, 64)])
def test_a_prompt_has_the_positions_that_a_text_leaves(positions: int | None, expected: int):
    assert expected == longest(positions, new_tokens=100, max_length=64)


def test_a_text_that_may_take_all_positions_is_refused_by_its_setting():
    with pytest.raises(LaunchError, match=r"generation\.max_new_tokens: 512 leaves no room for a prompt"):
        longest(512, new_tokens=512, max_length=64)


def test_rows_without_a_prompt_or_with_a_long_one_are_not_written():
    assert [0, 2, 3, 4, 5, 7, 8, 9, 10, 11] == ROWS


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_a_row_has_the_same_neighbours_at_any_number_of_ranks(world_size: int):
    one = sorted(tuple(one.rows) for one in of(1)[0])

    assert one == sorted(tuple(one.rows) for share in of(world_size) for one in share if one.counts)


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
def test_each_rank_does_as_many_rounds_and_one_without_rows_has_others(world_size: int):
    shares = of(world_size)

    assert 1 == len({len(share) for share in shares})
    assert all(one.rows for share in shares for one in share)


def test_what_is_done_ends_with_all_rows():
    assert [6, 10] == [one.done for one in of(2)[1]]


def test_a_sample_is_the_same_each_time_and_another_by_another_seed():
    samples = [chosen(LENGTHS, longest=20, limit=4, seed=seed) for seed in (1, 1, 2)]

    assert 4 == len(samples[0]) == len(set(samples[0]) & set(ROWS))
    assert samples[0] == samples[1] != samples[2]
    assert ROWS == chosen(LENGTHS, longest=20, limit=99, seed=1)


def test_a_row_is_scored_alone_and_the_worst_come_first():
    """Rows that were not written have no score, and are none of the worst."""
    texts, references = ["Yes.", None, "No.", "Maybe."], ["Yes.", None, "Yes.", "No."]
    predictions = Predictions(
        {"text": texts, "reference": references}, np.array([1.0, 9.0, 2.0, 9.0]), np.array([1, 1, 1, 3])
    )

    made = row_scores.scored(["perplexity", "exact_match", "label_accuracy"], predictions)

    assert [1.0, None, 0.0, 0.0] == made.columns["exact_match"]
    assert {"text", "reference", "exact_match"} == made.columns.keys()
    by = row_scores.first(["perplexity", "exact_match"], made)
    assert by is not None and "exact_match" == by.name
    assert [3, 2, 0] == row_scores.worst_first(by, made)


def test_rows_of_an_evaluation_without_texts_have_no_scores():
    predictions = Predictions({"correct": np.array([1])}, np.array([1.0]), np.array([1]))

    assert predictions is row_scores.scored(["exact_match"], predictions)
    assert row_scores.first(["exact_match"], predictions) is None
