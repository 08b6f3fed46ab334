"""When a training ends early: as transformers' own callback counts, and the same in a launch that goes on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.recipe.schema import EarlyStopping
from launcher.rundir import early_stop
from launcher.worker.runtime.events import Events
from launcher.worker.training.early_stop import EarlyStop


@pytest.fixture
def events(tmp_path: Path) -> Events:
    return Events(tmp_path / "events.jsonl", enabled=True)


def arguments(tmp_path: Path, *, greater: bool) -> TrainingArguments:
    return TrainingArguments(
        str(tmp_path),
        metric_for_best_model="mine",
        greater_is_better=greater,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        use_cpu=True,
        report_to="none",
    )


def ended_at(
    callback: TrainerCallback, args: TrainingArguments, values: Sequence[float], *, first: int = 1
) -> int | None:
    """The step after whose evaluation it ended the training; steps are counted from `first`."""
    state, control = TrainerState(max_steps=100), TrainerControl()
    callback.on_train_begin(args, state, control)
    best = None
    for step, value in enumerate(values, first):
        state.global_step = step
        callback.on_evaluate(args, state, control, metrics={"eval_mine": value})
        if control.should_training_stop:
            return step
        if best is None or (value > best if args.greater_is_better else value < best):  # as Trainer keeps it
            best = state.best_metric = value
    return None


@pytest.mark.parametrize("greater", [False, True])
def test_it_counts_as_transformers_does(tmp_path: Path, events: Events, greater: bool):
    """Over 200 courses of a figure, with and without a threshold, and any patience."""
    draw, args = random.Random(5), arguments(tmp_path, greater=greater)
    ends = set()
    for _ in range(200):
        values = [round(draw.random(), 2) for _ in range(12)]
        patience, threshold = draw.randint(1, 5), draw.choice([0.0, 0.05, 0.3])
        theirs = ended_at(EarlyStoppingCallback(patience, threshold), args, values)
        ours = ended_at(EarlyStop(EarlyStopping(patience=patience, threshold=threshold), events), args, values)
        ends.add(theirs)

        assert theirs == ours

    assert len(ends) > 8


VALUES = (0.9, 0.5, 0.6, 0.55, 0.7, 0.4)


@pytest.mark.parametrize("at", range(1, 5))
def test_what_was_counted_goes_on_in_the_next_launch(tmp_path: Path, events: Events, at: int):
    """Three evaluations are no better than that of step 2, wherever a checkpoint came between."""
    args, settings = arguments(tmp_path, greater=False), EarlyStopping(patience=3)
    before, after = EarlyStop(settings, events), EarlyStop(settings, events)
    assert ended_at(before, args, VALUES[:at]) is None
    after.set_values(before.values())

    assert 5 == ended_at(after, args, VALUES[at:], first=at + 1)
    assert {"step": 5, "best": 0.5, "best_step": 2, "evaluations": 3}.items() <= after.facts["early_stopping"].items()
    assert (
        "ended early, at step 5 of 100: in 3 evaluations in a row mine was no better than 0.5 of step 2"
        == early_stop.text(after.facts)
    )


def test_that_it_ended_is_kept_too(tmp_path: Path, events: Events):
    """A launch that goes on from the last checkpoint trains nothing more, and says the same."""
    args, settings = arguments(tmp_path, greater=False), EarlyStopping(patience=2)
    before, after = EarlyStop(settings, events), EarlyStop(settings, events)
    ended_at(before, args, VALUES)
    after.set_values(before.values())

    assert (True, before.facts) == (after.is_over, after.facts)


def test_a_figure_that_is_not_a_number_is_no_better(tmp_path: Path, events: Events):
    """And never the best, which later figures would have to beat."""
    callback = EarlyStop(EarlyStopping(patience=3), events)
    args = arguments(tmp_path, greater=False)

    assert 6 == ended_at(callback, args, (math.nan, math.nan, 0.9, 0.95, math.nan, 0.92, 0.1))
    assert (0.9, 3) == (callback.values()["best"], callback.values()["best_step"])


def test_figures_that_never_had_a_value_are_said_so(tmp_path: Path, events: Events):
    callback = EarlyStop(EarlyStopping(patience=2), events)

    assert 2 == ended_at(callback, arguments(tmp_path, greater=True), (math.nan, math.nan, 0.5))
    assert "ended early, at step 2 of 100: mine had no value in 2 evaluations in a row" == early_stop.text(
        callback.facts
    )


def test_neither_the_last_step_nor_an_evaluation_afterwards_ends_it_early(tmp_path: Path, events: Events):
    callback, args = EarlyStop(EarlyStopping(patience=1), events), arguments(tmp_path, greater=False)
    state, control = TrainerState(max_steps=2), TrainerControl()
    callback.on_train_begin(args, state, control)
    for state.global_step, value in ((1, 0.5), (2, 0.6)):
        callback.on_evaluate(args, state, control, metrics={"eval_mine": value})
    callback.on_train_end(args, state, control)
    callback.on_evaluate(args, state, control, metrics={"eval_mine": 0.7})

    assert ({}, False) == (callback.facts, control.should_training_stop)


@pytest.mark.parametrize("metrics", [{}, {"early_stopping": None}, {"early_stopping": {"step": 1}}])
def test_a_record_without_the_facts_says_nothing(metrics: dict[str, Any]):
    assert "" == early_stop.text(metrics)
