"""What is watched of a program without a change in it: libraries as they are imported, and what is a hang and what is not."""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from launcher.messages import translated
from launcher.report import read
from launcher.rundir import events, paths, records
from launcher.rundir.history import History
from launcher.rundir.paths import RunDir
from launcher.show import live
from launcher.worker.agent import stall
from launcher.worker.agent.activity import Activity, Used, used_by
from launcher.worker.agent.stall import Seen
from launcher.worker.hooks import accelerate_loop, saved, table
from launcher.worker.hooks.base import Watched
from launcher.worker.runtime import failure, heartbeat

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
    "at_work, main_s, thread_s, num_bytes",
    [(False, 0.5, 1.0, 1000), (True, 5.0, 0, 0), (True, 0.0, 50.0, 0), (True, 0.0, 0, 50 << 20)],
    ids=["idle", "main thread", "another thread", "io"],
)
def test_processor_time_and_bytes_are_work(at_work: bool, main_s: float, thread_s: float, num_bytes: int):
    """Over the last 100 s: what was used before them does not count. Ten threads that look now and then are no work."""
    activity = Activity(window_s=100.0)
    activity.note(7, 0.0, Used(0.0, {}, 0))
    first_looks = activity.is_at_work(7, 0.0)
    for second in range(20, 220, 10):
        share = max(0, second - 100) / 100
        threads = dict.fromkeys(range(10), 500 + thread_s * share)
        activity.note(7, second, Used(1000 + main_s * share, threads, (1 << 40) + int(num_bytes * share)))

    assert (True, at_work) == (first_looks, activity.is_at_work(7, 0.0))


def test_what_a_rank_did_before_its_latest_beat_is_no_work_since():
    activity = Activity(window_s=100.0)
    for second in range(0, 110, 10):
        activity.note(7, second, Used(min(second, 10), {}, 0))

    assert [True, False] == [activity.is_at_work(7, since) for since in (0.0, 10.0)]


def test_one_that_has_come_to_the_others_only_lately_is_given_time(run: RunDir):
    """A rank works for longer than the limit, without a beat, and then waits with the others: that is a hang where they are
    still there when the limit is over again, and it is none where it has worked again."""
    working: set[int] = set()
    activity = types.SimpleNamespace(is_at_work=lambda pid, since_s: pid in working)
    watch = stall.Watch(run.attempt(0), 10.0, activity)  # type: ignore[arg-type]
    pids = {0: 100, 1: 101}
    outside, inside = seen(1, IN_USER_CODE), seen(1, IN_COLLECTIVE)
    looks = [(0, outside, {101}), (3, inside, {101}), (6, inside, set()), (9, inside, set()), (10, inside, set())]
    found = []
    for now, other, at_work in looks:
        working = at_work
        found.append(watch._is_hang([seen(0, IN_COLLECTIVE), other], pids, activity, 1000.0 + now))  # type: ignore[arg-type]

    assert [False, False, False, False, True] == found


def test_what_a_process_uses_is_seen_from_outside():
    """Its main thread's work, its children's, and what it writes."""
    burn = "sum(i * i for i in range(1_000_000))"
    code = f"import os, sys, subprocess; {burn}; os.write(1, b'x' * 70000); sys.stdin.read(1); {burn}; print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    try:
        process.stdout.read(70000)
        before = used_by(process.pid)
        process.stdin.write(b"xx")
        process.stdin.flush()
        process.stdout.readline()
        after = used_by(process.pid)
    finally:
        process.kill()
        process.wait()

    assert after.main_s > before.main_s > 0
    assert before.num_bytes >= 70000


def test_a_library_is_watched_once_it_is_imported(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After it has run, with its own loader; an error in a hook is said once and ends nothing."""
    (tmp_path / "a_library.py").write_text("value = 1\n")
    (tmp_path / "hook_of_it.py").write_text("def attach(module, watched):\n    module.value += 1\n    1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(table, "TABLE", {"a_library": "hook_of_it"})
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    table.install(run, 0, 0)

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


def checkpoint(folder: Path, step: int = 5) -> Path:
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with zipfile.ZipFile(folder / "optimizer.pt", "w") as file:
        file.writestr("data", "x" * 100)
    (folder / "sharded").mkdir()
    (folder / "sharded" / "__0_0.distcp").write_bytes(b"x")
    (folder / "sharded" / ".metadata").write_bytes(b"x")
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


DAMAGE = {
    "nothing": lambda folder: None,
    "no state": lambda folder: (folder / "trainer_state.json").unlink(),
    "weights cut": lambda folder: cut(folder / "model.safetensors"),
    "optimizer cut": lambda folder: cut(folder / "optimizer.pt"),
    "shards without their index": lambda folder: (folder / "sharded" / ".metadata").unlink(),
    "being written": lambda folder: (folder / saved.JIT_MARK).touch(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_is_complete_where_nothing_breaks_off(tmp_path: Path, damage: str):
    folder = checkpoint(tmp_path / "checkpoint-5")
    DAMAGE[damage](folder)

    assert (damage == "nothing", False) == (saved.is_complete(folder, 5), saved.is_complete(folder, 6))


def test_a_schedule_says_how_many_steps_there_are():
    linear = types.SimpleNamespace(lr_lambdas=[functools.partial(int, num_training_steps=40)])
    one_cycle = types.SimpleNamespace(total_steps=30)

    assert [40, 30, None] == [
        accelerate_loop.total_steps(s) for s in (linear, one_cycle, types.SimpleNamespace(lr_lambdas=[int]))
    ]


def test_what_an_accelerator_is_told_becomes_events(run: RunDir):
    """A schedule of all ranks' steps, which accelerate moves on once for each rank; a loss; an evaluation."""
    watched = Watched(run, 0, 0)
    said = accelerate_loop.Said(watched)
    accelerator = types.SimpleNamespace(split_batches=False, step_scheduler_with_optimizer=True, num_processes=2)
    said.scheduler(accelerator, types.SimpleNamespace(total_steps=5))
    watched.note_loss(0.25)
    watched.stepped()
    said.logged(accelerator, {"train_loss": 1.5, "accuracy": 0.5, "epoch": 1, "name": "x"})
    said.logged(accelerator, {"loss": 1.25, "lr": 0.1})
    watched.end()

    seen = [event.to_json() for _, event in events.events(run.events_path)]
    assert [
        {"event": "step", "step": 1, "max_steps": 3},
        {"event": "eval", "step": 1, "accuracy": 0.5},
        {"event": "log", "step": 1, "loss": 1.25, "learning_rate": 0.1},
        {"event": "log", "step": 1, "loss": 0.25},
    ] == [{name: value for name, value in row.items() if name != "time"} for row in seen]


def test_where_a_program_is_stands_in_a_line():
    """With and without a number of steps; how fast, and its figures."""
    rows = [{"event": "step", "time": 10.0 + n, "step": 2 * n} for n in range(1, 4)]
    log = {"event": "log", "time": 14.0, "step": 6, "loss": 0.5, "learning_rate": 1e-3}
    evaluation = {"event": "eval", "time": 15.0, "step": 6, "eval_loss": 0.25, "f1": 0.75}
    history = History.of(map(records.event, rows))

    assert "step 6  2 steps/s" == translated(live.summary(history))
    total = History.of(map(records.event, [*({**row, "max_steps": 8} for row in rows), log, evaluation]))
    assert "step 6/8  2 steps/s  loss 0.5000  lr 0.001  eval loss 0.2500  f1 0.7500" == translated(live.summary(total))


def test_a_program_that_was_stopped_and_continued_to_its_end_is_done(run: RunDir):
    """As the report says it: every rank has left its mark in the newest attempt."""
    plan = {"program": {"kind": "script", "target": "x.py"}, "nproc_per_node": 2}
    stopped = [{"event": "preempted", "step": 3, "saved": True, "signal": "SIGTERM"}]
    history = History.of(map(records.event, stopped))
    before = read._status(run, history, plan, {}, None)
    paths.make_folder(run.attempt(1))
    for rank in (0, 1):
        paths.touch(run.attempt(1) / f"done_{rank}")

    assert ("interrupted", "done") == (before, read._status(run, history, plan, {}, None))


def test_of_several_nodes_the_one_that_saw_a_program_stand_still_has_the_culprit(run: RunDir):
    """Ranks of the others may already be failing, since that one is gone, and stand in no collective any more."""
    Watched(run, 0, 0)
    pids = {0: os.getpid()}  # hears no SIGUSR2: no stack
    looks = [
        stall.Watch(run.attempt(0), 10.0, activity).look(pids, at_once=True) for activity in (Activity(10.0), None)
    ]

    assert [failure.FOLLOWED, failure.CAUSE] == [record.weight for record in looks if record]
