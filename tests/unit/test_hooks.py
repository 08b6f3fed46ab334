"""What is watched of a program without a change in it: libraries as they are imported, and what is a hang and what is not."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

import pytest

from launcher.rundir import events, paths
from launcher.rundir.paths import RunDir
from launcher.worker.agent import stall
from launcher.worker.agent.activity import Activity, Used
from launcher.worker.agent.stall import Seen
from launcher.worker.hooks import table
from launcher.worker.hooks.base import Watched
from launcher.worker.runtime import heartbeat

IN_USER_CODE = 'Thread 0x1 (most recent call first):\n  File "/x/train.py", line 9 in step\n'
IN_COLLECTIVE = (
    'Thread 0x1 (most recent call first):\n  File "/lib/torch/distributed/distributed_c10d.py", line 1 in barrier\n'
)
IN_FORWARD = (
    'Thread 0x2 (most recent call first):\n  File "/lib/torch/distributed/elastic.py", line 5 in wait\n\n'
    "Current thread 0x1 (most recent call first):\n"
    '  File "/x/model.py", line 3 in forward\n  File "/lib/torch/nn/parallel/distributed.py", line 8 in forward\n'
)


def seen(rank: int, stack: str, phase: str = "the end", step: int = 3, state: str = "S") -> Seen:
    return Seen(rank, step, phase, 60.0, state, stack)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    paths.make_folder(run.attempt(0))
    return run


@pytest.mark.parametrize(
    "hangs, ranks, at_work",
    [
        (True, [seen(0, IN_COLLECTIVE), seen(1, IN_USER_CODE)], set()),
        (True, [seen(0, IN_COLLECTIVE, "start", 0), seen(1, IN_USER_CODE, "start", 0)], set()),
        (True, [seen(0, IN_COLLECTIVE), seen(1, IN_COLLECTIVE)], {0, 1}),
        (True, [seen(0, IN_USER_CODE)], set()),
        (True, [seen(0, IN_USER_CODE), seen(1, IN_USER_CODE, state="T")], {0}),
        (False, [seen(0, IN_COLLECTIVE), seen(1, IN_USER_CODE)], {1}),
        (False, [seen(0, IN_USER_CODE, "start", 0), seen(1, IN_USER_CODE, "start", 0)], set()),
        (False, [seen(0, IN_USER_CODE, "trained")], set()),
    ],
    ids=[
        "one waits",
        "before any step",
        "all wait, busily",
        "alone",
        "stopped",
        "works",
        "never trains",
        "has trained",
    ],
)
def test_what_is_a_hang_of_a_program(hangs: bool, ranks: list[Seen], at_work: set[int]):
    assert hangs == stall.is_hang(ranks, at_work)


def test_a_model_that_stands_still_in_its_forward_is_in_no_collective():
    """Although DDP's file is below it, and another thread waits in one of torch.distributed's."""
    assert [True, False, False] == [stall.waits(seen(0, s)) for s in (IN_COLLECTIVE, IN_FORWARD, IN_USER_CODE)]
    assert 1 == stall.culprit([seen(0, IN_COLLECTIVE), seen(1, IN_FORWARD)]).rank


def test_a_rank_that_asks_its_card_for_a_figure_waits(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text("x = 1\nprint(loss.item())\n")
    stack = f'Thread 0x1 (most recent call first):\n  File "{script}", line {{}} in <module>\n'

    assert [False, True] == [stall.waits(seen(0, stack.format(line))) for line in (1, 2)]


@pytest.mark.parametrize(
    "at_work, cpu_s, num_bytes", [(False, 0.5, 1000), (True, 5.0, 0), (True, 0.0, 50 << 20)], ids=["idle", "cpu", "io"]
)
def test_processor_time_and_bytes_are_work(at_work: bool, cpu_s: float, num_bytes: int):
    """Over the last 100 s: what was used before them does not count."""
    activity = Activity(window_s=100.0)
    activity.note(7, 0.0, Used(0.0, 0))
    first_looks = activity.is_at_work(7)
    for second in range(20, 220, 10):
        share = max(0, second - 100) / 100
        activity.note(7, second, Used(1000 + cpu_s * share, (1 << 40) + int(num_bytes * share)))

    assert (True, at_work) == (first_looks, activity.is_at_work(7))


def test_a_library_is_watched_once_it_is_imported(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After it has run, with its own loader; an error in a hook is said once and ends nothing."""
    (tmp_path / "a_library.py").write_text("value = 1\n")
    (tmp_path / "hook_of_it.py").write_text("def attach(module, watched):\n    module.value += 1\n    1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(table, "TABLE", {"a_library": "hook_of_it"})
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    table.install(run, 0, 0, 1)

    library = importlib.import_module("a_library")
    monkeypatch.delitem(sys.modules, "a_library")

    assert library.__spec__ is not None
    assert (2, "SourceFileLoader") == (library.value, type(library.__spec__.loader).__name__)


def test_an_error_of_a_hook_is_said_once(run: RunDir, capsys: pytest.CaptureFixture[str]):
    watched = Watched(run, 0, 0)
    fails = watched.guarded("a hook", lambda: 1 / 0)

    assert [None, None] == [fails(), fails()]
    assert 1 == capsys.readouterr().err.count("a hook is not watched from here on: ZeroDivisionError")


def test_steps_beat_and_the_first_rank_says_them(run: RunDir):
    watched = [Watched(run, 0, rank) for rank in (0, 1)]
    for rank in watched:
        for _ in range(3):
            rank.stepped()
        rank.end()

    beats = [heartbeat.read_beat(run.attempt(0) / f"beat_{rank}") for rank in (0, 1)]
    assert [(3, "the end")] * 2 == [(beat.step, beat.phase) for beat in beats if beat]
    assert [1, 3] == [event.step for _, event in events.events(run.events_path)]


def test_a_process_that_a_rank_forks_says_nothing(run: RunDir):
    """A DataLoader's worker has the same hooks."""
    watched = Watched(run, 0, 0)
    child = os.fork()
    if child == 0:
        watched.stepped()
        os._exit(0)
    os.waitpid(child, 0)

    beat = heartbeat.read_beat(run.attempt(0) / "beat_0")
    assert beat is not None and (0, "start") == (beat.step, beat.phase)


def test_a_beat_never_lands_in_a_file_of_the_programs(run: RunDir, tmp_path: Path):
    """A program may close every descriptor, and open a file of its own under the number of the beat's."""
    watched = Watched(run, 0, 0)
    with (tmp_path / "mine").open("w") as file:
        os.dup2(file.fileno(), watched._heart._file)
        watched.stepped()

    assert "" == (tmp_path / "mine").read_text()
