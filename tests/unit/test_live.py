"""The panel fits the terminal, whatever its size, and says which rank holds the others up."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from launcher.rundir import records
from launcher.rundir.history import History
from launcher.show import live

GIB = 1 << 30


def history_of(events) -> History:
    return History.of(map(records.event, events))


def running(num_ranks: int = 2, slow: int | None = None, restarts: int = 0) -> History:
    own = [2.5 if rank == slow else 0.5 for rank in range(num_ranks)]
    rates = {
        "event": "rates",
        "time": 60.0,
        "step": 10,
        "steps": 10,
        "seconds": 4.0,
        "rows": 320,
        "tokens": 81234,
        "data_s": [0.0] * num_ranks,
        "forward_s": own,
        "host_bytes": [GIB * (1 + r) for r in range(num_ranks)],
    }
    restart = {"event": "restart", "time": 5.0, "attempt": 1, "of": 1, "rank": 0, "what": "x"}
    return history_of(
        [
            *[restart] * restarts,
            {"event": "train", "time": 50.0, "max_steps": 100, "num_train_epochs": 1},
            *[
                {
                    "event": "log",
                    "time": 50.0 + s,
                    "step": s,
                    "epoch": s / 100,
                    "loss": 2 / s,
                    "grad_norm": 1.25,
                    "learning_rate": 2e-5,
                }
                for s in range(1, 11)
            ],
            rates,
        ]
    )


def shown(history: History, width: int, height: int = 24, now: float = 60.0) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(live.panel(history, now, width=width, height=height))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 120, 300])
@pytest.mark.parametrize("height", [5, 10, 24])
def test_it_fits(width: int, height: int):
    """No line is wider than the terminal, and the panel leaves it room for lines above."""
    lines = shown(running(num_ranks=64, slow=7, restarts=2), width, height)

    assert [] == [line for line in lines if len(line) > width]
    assert len(lines) <= max(height - 2, 2)


def test_drawing_costs_the_same_however_long_the_run(operations: Callable[[Callable[[], Any]], int]):
    """The panel is drawn several times a second, and the curve in it spans the whole run."""
    costs = []
    for num_logs in (200, 2000):
        history = running()
        for step in range(11, num_logs):
            history.add(records.Log(time=60.0, step=step, epoch=0.5, loss=2 / step, grad_norm=1.0))
        costs.append(operations(lambda history=history: live.panel(history, 60.0, width=120, height=24)))

    assert costs[1] <= 1.2 * costs[0]


def test_it_says_where_the_job_is():
    """Steps, time left (90 steps at 0.4 s), loss, speed, learning rate; and memory of each rank."""
    first, figures, _, *ranks = shown(running(), 100)

    assert (True, True) == (first.startswith("step 10/100  epoch 0.10/1"), first.rstrip().endswith("0:36 left"))
    assert "loss 0.2000  20.3k tokens/s  80.0 rows/s  lr 2e-05  400 ms/step" in figures
    assert ["1.00 GiB", "2.00 GiB"] == [" ".join(line.split()[1:3]) for line in ranks]


def test_time_left_runs_down_between_events():
    """A step that takes long is no reason to stand still."""
    assert shown(running(), 100, now=70.0)[0].rstrip().endswith("0:26 left")


def test_a_straggler_stands_out():
    """By name, with how much slower it is."""
    line = next(line for line in shown(running(num_ranks=4, slow=2), 100) if line.startswith("   2"))

    assert "5.0 times the others'" in line


def test_of_many_ranks_those_that_matter_are_shown():
    """The slow ones, the one with the most memory; the others in one line."""
    lines = shown(running(num_ranks=64, slow=7), 100, height=40)

    assert {"7", "63"} <= {line.split()[0] for line in lines[3:-1]}
    assert 8 == len(lines[3:-1])
    assert "56 more ranks" in lines[-1]


def test_a_restart_is_told():
    """It is easy to miss on a screen that goes on as before."""
    assert "2 restarts" in shown(running(restarts=2), 100)[0]


def test_before_the_first_step_the_phase_is_shown():
    """With the time it has taken: loading an 8B model is minutes of silence otherwise."""
    (line,) = shown(history_of([{"event": "start", "time": 100.0}]), 80, now=175.0)

    assert "loading the model ...  1:15" == line.rstrip()


@pytest.mark.parametrize(
    ("values", "expected"), [([3, 2, 1], "█▅▁"), ([1, 1], "▁▁"), ([], ""), ([float("nan"), 1.0], "▁")]
)
def test_a_sparkline_spans_low_to_high(values, expected):
    """What is no number is left out."""
    assert expected == live.sparkline(values, 10)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(3, "0:03"), (123, "2:03"), (3723, "1:02:03"), (90061, "1 d 1:01:01")]
)
def test_times_are_read_as_clocks(seconds, expected):
    assert expected == live.clock(seconds)


def test_the_panel_says_how_many_rows_have_been_written():
    history = running()
    for done, texts in ((3, {}), (24, {"of_texts": True})):
        history.add(records.event({"event": "eval_step", "time": 61.0, "step": done, "max_steps": 100, **texts}))

    assert "generating 24 of 100" in shown(history, 120)[0]
    history.add(records.event({"event": "eval_step", "time": 62.0, "step": 3, "max_steps": 9}))
    assert "evaluating 3/9" in shown(history, 120)[0]
