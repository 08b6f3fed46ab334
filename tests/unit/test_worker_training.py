"""What works beside the trainer, each part by itself: given callables and a snapshot, without a model or another rank."""

from __future__ import annotations

import ast
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerControl, TrainerState

import launcher.worker
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.worker.checkpoints import manifest
from launcher.worker.checkpoints.manifest import Checkpoint
from launcher.worker.checkpoints.store import Snapshot, Store
from launcher.worker.runtime import stop_signals
from launcher.worker.runtime.events import Events
from launcher.worker.runtime.heartbeat import Heart
from launcher.worker.runtime.peers import Peers
from launcher.worker.runtime.stop_signals import Preempted
from launcher.worker.training.losswatch import NAN_REASONS, ZERO_STEPS, LossWatch
from launcher.worker.training.progress import EvalProgress, Progress
from launcher.worker.training.stop import Schedule, Stop, StopReport
from launcher.worker.training.train import few_sequences


@pytest.fixture
def events(tmp_path: Path) -> Events:
    return Events(tmp_path / "events.jsonl", enabled=True)


def emitted(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def at(step: int, epoch: float, max_steps: int = 8) -> TrainerState:
    return TrainerState(global_step=step, epoch=epoch, max_steps=max_steps)


ARGS: Any = None
"""Of TrainingArguments, of which none of these callbacks reads anything."""


def test_no_part_is_changed_from_outside():
    """Each is whole when it is made: nothing sets an attribute of a trainer, or of what works beside it, but its own methods."""
    parts = {"trainer", "store", "stop", "report", "progress", "watch", "rates", "schedule"}
    written = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in Path(launcher.worker.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in parts
    ]

    assert [] == written


@pytest.fixture
def schedule() -> Schedule:
    return Schedule()


@pytest.fixture
def begun() -> list[str]:
    """Gets a word when the trainer is told to begin."""
    return []


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch, events: Events, schedule: Schedule, begun: list[str]) -> Stop:
    monkeypatch.setattr(stop_signals, "_received", None)
    report = StopReport(Peers(), events, saved_step=lambda: 3)
    return Stop(Peers(), schedule, report, begin=lambda: begun.append("begun"))


@pytest.mark.parametrize(
    ("step", "epoch", "is_over"), [(3, 0.75, False), (4, 1.0, True), (7, 1.75, False), (8, 1.9, True)]
)
def test_an_epoch_is_over_at_its_last_step_and_at_the_last_of_all(step: int, epoch: float, is_over: bool):
    """max_steps may end a training in the middle of an epoch."""
    assert is_over == Schedule.epoch_is_over(at(step, epoch))


def test_what_falls_on_an_epochs_last_step_comes_at_its_end(stop: Stop, schedule: Schedule):
    """The row of the epoch is made in between, and belongs in the checkpoint."""
    control = TrainerControl(should_save=True, should_evaluate=True)
    stop.on_step_end(ARGS, at(4, 1.0), control)

    assert (False, False) == (control.should_save, control.should_evaluate)
    stop.on_epoch_end(ARGS, at(4, 1.0), control)
    assert (True, True) == (control.should_save, control.should_evaluate)
    assert not schedule.evaluation_is_due


def test_a_stop_saves_first_and_leaves_the_evaluation_for_later(
    monkeypatch: pytest.MonkeyPatch, stop: Stop, schedule: Schedule, tmp_path: Path
):
    """The signal comes in a step whose end would also be evaluated."""
    monkeypatch.setattr(stop_signals, "_received", signal.SIGTERM)
    control = TrainerControl(should_evaluate=True)
    stop.on_step_end(ARGS, at(3, 0.75), control)

    assert (True, False) == (control.should_save, control.should_evaluate)
    assert schedule.evaluation_is_due
    with pytest.raises(Preempted):
        stop.on_save(ARGS, at(3, 0.75), control)
    assert [{"event": "preempted", "step": 3, "saved": True, "signal": "SIGTERM"}] == emitted(tmp_path)


def test_a_stop_before_the_first_step_saves_nothing(
    monkeypatch: pytest.MonkeyPatch, stop: Stop, begun: list[str], tmp_path: Path
):
    """Where no signal has come, the trainer begins."""
    stop.on_train_begin(ARGS, at(0, 0.0), TrainerControl())
    monkeypatch.setattr(stop_signals, "_received", signal.SIGUSR1)
    with pytest.raises(Preempted):
        stop.on_train_begin(ARGS, at(0, 0.0), TrainerControl())

    assert ["begun"] == begun
    assert [{"event": "preempted", "step": 0, "saved": False, "signal": "SIGUSR1"}] == emitted(tmp_path)


def test_the_step_whose_loss_is_not_a_number_is_named():
    """Looked for only when a line is logged: the sum of the losses keeps it."""
    loss_sum = torch.zeros(())
    watch = LossWatch(loss_sum.clone, "fp16", Peers())
    for step, loss in enumerate((1.0, 2.0, math.nan, 1.0), start=1):
        loss_sum += loss
        watch.on_step_end(ARGS, at(step, step / 4), TrainerControl())

    with pytest.raises(LaunchError, match="at step 3, first on rank 0") as caught:
        watch.look()
    assert NAN_REASONS["fp16"] == caught.value.hint


def test_a_loss_that_stays_zero_is_refused():
    """Once it may be."""
    watch = LossWatch(torch.zeros(()).clone, "bf16", Peers())
    logs = [0.0] * (ZERO_STEPS - 1) + [0.1] + [0.0] * ZERO_STEPS
    for step, loss in enumerate(logs[:-1], start=1):
        watch.on_log(ARGS, at(step, 0.5), TrainerControl(), {"loss": loss})

    with pytest.raises(LaunchError, match=f"exactly 0 for {ZERO_STEPS} logged steps"):
        watch.on_log(ARGS, at(len(logs), 0.5), TrainerControl(), {"loss": logs[-1]})


def progress(
    events: Events, epochs: list[dict[str, Any]], has_best_model: Callable[[], bool] = lambda: False
) -> Progress:
    return Progress(
        events,
        epochs,
        ("accuracy",),
        check_engine=lambda: {"engine": "none"},
        take_epoch_loss=lambda: 0.5,
        eval_progress=lambda: EvalProgress(2, 7),
        has_best_model=has_best_model,
    )


def test_a_row_gets_the_figures_of_its_epochs_end(events: Events, tmp_path: Path):
    """An evaluation in the middle of an epoch is an event, and no row's."""
    epochs: list[dict[str, Any]] = []
    table = progress(events, epochs)
    figures = {"eval_loss": 0.7, "eval_accuracy": 0.9, "eval_runtime": 3.0}
    table.on_evaluate(ARGS, at(2, 0.5), TrainerControl(), figures)
    table.on_epoch_end(ARGS, at(4, 1.0), TrainerControl(should_evaluate=True))
    table.on_prediction_step(ARGS, at(4, 1.0), TrainerControl())
    table.on_evaluate(ARGS, at(4, 1.0), TrainerControl(), figures)

    row = {"epoch": 1.0, "train_loss": 0.5, "eval_loss": 0.7, "accuracy": 0.9}
    assert [row] == epochs
    assert [
        {"event": "eval", "step": 2, "epoch": 0.5, "eval_loss": 0.7, "accuracy": 0.9},
        {"event": "eval_step", "step": 2, "max_steps": 7},
        {"event": "eval", "step": 4, "epoch": 1.0, "eval_loss": 0.7, "accuracy": 0.9},
        {"event": "epoch", **row},
    ] == emitted(tmp_path)


def test_an_evaluation_after_the_training_adds_no_second_event_of_its_epoch(events: Events, tmp_path: Path):
    """As where max_steps ends it in the middle of an epoch: the row has the figures, and the event of the evaluation."""
    epochs: list[dict[str, Any]] = []
    table = progress(events, epochs)
    table.on_epoch_end(ARGS, at(3, 0.75), TrainerControl())
    table.on_evaluate(ARGS, at(3, 0.75), TrainerControl(), {"eval_loss": 0.7})

    assert [{"epoch": 0.75, "train_loss": 0.5, "eval_loss": 0.7}] == epochs
    assert [("epoch", None), ("eval", 0.7)] == [(one["event"], one.get("eval_loss")) for one in emitted(tmp_path)]


def test_figures_of_the_best_model_are_of_no_epoch(events: Events, tmp_path: Path):
    """It was loaded after the last one."""
    epochs = [{"epoch": 1.0, "train_loss": 0.5}]
    progress(events, epochs, lambda: True).on_evaluate(ARGS, at(4, 1.0), TrainerControl(), {"eval_loss": 0.1})

    assert [{"epoch": 1.0, "train_loss": 0.5}] == epochs
    assert [] == emitted(tmp_path)


@pytest.fixture
def store(recipe: Callable[..., Path], events: Events, tmp_path: Path) -> Store:
    made = decide.make(load.load(recipe(), (), {}), Cluster("cpu", source="a test"), plan.Options(nproc=1))
    return Store(tmp_path / "checkpoints", made, Peers(), events, Heart(tmp_path / "beat_0"))


def snapshot(step: int, weight: float = 1.0, **values: Any) -> Snapshot:
    weights = {"w": torch.full((3,), weight)}
    usual: dict[str, Any] = {
        "step": step,
        "epoch": step / 4,
        "is_resumable": True,
        "save_total_limit": None,
        "best_steps": frozenset(),
        "gathered_weights": lambda: weights,
        "state_of_rank": lambda: ([("p/w", weights["w"])], {"sums": {"total": 1.5}}),
        "trainer_state": lambda: {"global_step": step},
        "write_model": lambda folder, state: save_file(state, folder / "model.safetensors"),
    }
    return Snapshot(**usual | values)


def test_a_snapshot_becomes_a_whole_checkpoint(store: Store):
    """No trainer is needed for it."""
    assert store.save(snapshot(6))

    whole = store.find()
    assert isinstance(whole, Checkpoint)
    assert (6, 6, 1.5, True) == (whole.step, *(whole.manifest[k] for k in ("step", "epoch", "resumable")))
    names = ["model.safetensors", "state_0.safetensors", "trainer_state.json"]
    assert names == [row["name"] for row in whole.manifest["files"]]


def test_the_model_alone_is_no_checkpoint_to_resume_from(store: Store):
    """save_only_model: no rank is asked for its state."""
    assert store.save(snapshot(6, is_resumable=False, state_of_rank=None))

    assert None is store.find()
    whole, _ = manifest.newest_whole(store.folder, for_resuming=False)
    assert whole is not None
    assert ["model.safetensors", "trainer_state.json"] == [row["name"] for row in whole.manifest["files"]]


def test_the_best_steps_are_kept_beyond_the_limit(store: Store):
    """Of older ones as many as the limit says."""
    for step in (2, 4, 6, 8):
        store.save(snapshot(step, save_total_limit=1, best_steps=frozenset({4})))

    assert [4, 8] == [step for step, _ in manifest.listed(store.folder)]


def test_a_weight_that_is_not_a_number_is_not_saved(store: Store):
    """The older checkpoint stays the newest."""
    store.save(snapshot(6))
    with pytest.raises(LaunchError, match=r"w is not a number \(NaN\) after step 8"):
        store.save(snapshot(8, math.nan))

    assert [6] == [step for step, _ in manifest.listed(store.folder)]


@pytest.mark.parametrize(("count", "start"), [(8, None), (1, "all rows are packed into 1 sequence, fewer")])
def test_packs_that_are_fewer_than_a_batch_are_said(count: int, start: str | None):
    """An epoch is one step then, whatever the batch says."""
    said = few_sequences(count, 8)
    assert start == (said and said[: len(start or "")])
