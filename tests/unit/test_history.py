"""Events become curves; what a restart threw away is kept apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from launcher.rundir import records
from launcher.rundir.history import Curve, History
from launcher.rundir.rates import macro_text, stragglers


def history_of(events) -> History:
    return History.of(map(records.event, events))


def log(step, loss, time=0.0):
    return {"event": "log", "time": time, "step": step, "epoch": step / 10, "loss": loss, "learning_rate": 1e-4}


def rates(*forward_s, steps=10, seconds=2.0, data_s=0.0):
    return {
        "event": "rates",
        "step": steps,
        "steps": steps,
        "seconds": seconds,
        "rows": 80,
        "tokens": 4000,
        "data_s": [data_s] * len(forward_s),
        "forward_s": list(forward_s),
        "host_bytes": [1 << 30] * len(forward_s),
    }


TRAIN = {"event": "train", "time": 10.0, "max_steps": 30, "num_train_epochs": 3}


def test_steps_done_again_replace_the_lost_ones():
    """After a restart from step 10 the curve has one point a step, and the lost stretch is not forgotten."""
    restart = {"event": "restart", "time": 3.0, "attempt": 1, "of": 2, "rank": 1, "what": "was killed"}
    resume = {"event": "resume", "time": 4.0, "path": "/r/checkpoints/checkpoint-10", "step": 10}
    history = history_of([TRAIN, log(10, 2.0), log(20, 1.0), restart, TRAIN, resume, log(20, 1.5), log(30, 0.5)])

    assert [(10, 2.0), (20, 1.5), (30, 0.5)] == [(row.step, row.loss) for row in history.logs]
    assert [[1.0]] == [[row.loss for row in rows] for rows in history.undone]
    assert ["attempt 1 of 2, after rank 1: was killed", "resumed from checkpoint-10"] == [
        i.text for i in history.incidents
    ]


def test_events_of_any_version_are_taken():
    """Unknown kinds, and known ones without the fields of today, neither fail nor count."""
    history = history_of([{"event": "tomorrow's"}, {}, {"event": "imported"}, {"event": "train"}, {"event": "note"}])

    assert (0, []) == (history.max_steps, history.logs)


def test_time_left_counts_steps_and_evaluations():
    """20 of 30 steps at 0.2 s, and an evaluation of 7 s every 10 steps: two are to come."""
    history = history_of(
        [
            TRAIN,
            log(10, 1.0, 20.0),
            rates(0.1, 0.1),
            {"event": "eval_step", "time": 21.0, "step": 1, "max_steps": 9},
            {"event": "eval", "time": 28.0, "step": 10, "epoch": 1, "eval_loss": 1.0},
        ]
    )

    assert pytest.approx(20 * 0.2 + 2 * 7.0) == history.seconds_left


def test_nothing_is_known_before_the_first_step():
    """No time left is better than a wrong one."""
    assert history_of([TRAIN]).seconds_left is None


@pytest.mark.parametrize(
    ("forward_s", "expected"),
    [
        ((0.5, 0.5, 1.5, 0.5), {2: 3.0}),  # a step takes 0.2 s, 0.15 s of which rank 2 needs alone
        ((0.5, 0.6, 0.5, 0.5), {}),
        ((0.01, 0.01, 0.05, 0.01), {}),  # five times as slow, and yet nobody waits
        ((0.5,), {}),
        ((0.2, 1.0), {1: 5.0}),
    ],
)
def test_a_straggler_is_a_rank_that_the_others_wait_for(forward_s, expected):
    """Slow beside the median, and by a share of the step that counts."""
    assert pytest.approx(expected) == stragglers(records.event(rates(*forward_s)))


def long_run(num_steps: int) -> list[dict[str, Any]]:
    """Every step logged, with its rates, and an evaluation every ten."""
    events = [TRAIN]
    for n in range(1, num_steps + 1):
        events += [
            {"event": "step", "time": float(n), "step": n, "epoch": n / 10},
            log(n, 1 / n, float(n)),
            rates(0.1, 0.2, steps=n),
        ]
        events += [{"event": "note", "time": float(n), "text": f"note {n}"}]
        events += (
            [{"event": "eval", "time": float(n), "step": n, "epoch": n / 10, "eval_loss": 1 / n}] if n % 10 == 0 else []
        )
    return events


def test_an_event_costs_the_same_however_long_the_run(operations: Callable[[Callable[[], Any]], int]):
    """The cost of the next events after 30 steps, and after 600."""
    costs = []
    for num_steps in (30, 600):
        events = long_run(num_steps + 20)
        first = next(i for i, event in enumerate(events) if event.get("step") == num_steps + 1)
        history = history_of(events[:first])
        new = [records.event(event) for event in events[first:]]
        costs.append(operations(lambda history=history, new=new: [history.add(event) for event in new]))

    assert costs[1] <= 1.05 * costs[0]


def test_a_restart_costs_what_it_takes_back():
    """Rows before the step that is done again are left where they are; their losses are summed up anew."""
    history = history_of([*long_run(300), log(299, 5.0)])

    assert [*range(1, 300)] == [row.step for row in history.logs]
    assert [299, 300] == [row.step for row in history.undone[0]]
    assert 298 == history.rates[-1].step
    assert 290 == history.evals[-1].step
    assert 299 == sum(count for _, count in history.losses._sums)


def test_a_curve_of_any_length_is_as_many_means():
    """As they are up to 48; then of pairs, of fours, and so on. What is no number is no value."""
    curve = Curve()
    for value in [*range(48), None, float("nan"), "x", True]:
        curve.add(value)
    assert [float(n) for n in range(48)] == curve.means

    for value in range(48, 100):
        curve.add(value)
    assert 4 == curve.length
    assert [1.5, 5.5] == curve.means[:2]
    assert pytest.approx(99 * 100 / 2) == sum(total for total, _ in curve._sums)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (
            {"final": {"f1": 1.0, "accuracy": 1.0}, "macro_average": {"labels": [0], "num_labels": 5}},
            "f1: macro average over 1 of 5 labels; labels that neither occur nor are predicted do not count",
        ),
        (
            {"final": {"recall": 1.0, "f1": 1.0}, "macro_average": {"labels": [0, 1], "num_labels": 2}},
            "recall, f1: macro average over 2 of 2 labels",
        ),
        ({"final": {"accuracy": 1.0}, "macro_average": {"labels": [0], "num_labels": 5}}, ""),
        ({"final": {"f1": 1.0}}, ""),
        ({"final": [], "macro_average": 3}, ""),
    ],
)
def test_macro_averages_say_which_labels_count(metrics, said: str):
    """Of metrics.json, be it of an older version or odd."""
    assert said == macro_text(metrics)
