"""What a training tells while it runs: lines of events.jsonl from the first rank, and a check before the first step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher import records, rundir
from launcher.records import Event

if TYPE_CHECKING:
    from launcher.worker.heartbeat import Heart
    from launcher.worker.trainer import RecipeTrainer

STEP_EVENT_INTERVAL_S = 0.2
"""Step events come at most this often; the last step of all always has one."""


class Events:
    """The run's events; only the first rank writes."""

    def __init__(self, path: Path, *, enabled: bool) -> None:
        self._path = path
        self._enabled = enabled

    def emit(self, event: Event) -> None:
        """Append one event."""
        if self._enabled:
            rundir.append_event(self._path, event)


class Progress(TrainerCallback):
    """Events of the training loop, and the table row of each epoch."""

    def __init__(self, trainer: RecipeTrainer, events: Events) -> None:
        self._trainer = trainer
        self._events = events
        self._last_step_s = 0.0
        self.epochs: list[dict[str, Any]] = []
        """metrics.json's `epochs`: epoch, train_loss (mean over the epoch's steps), and the figures of an evaluation
        at its end."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._events.emit(records.Engine.of(self._trainer.check_engine()))
        self._events.emit(records.Train(max_steps=state.max_steps, num_train_epochs=state.num_train_epochs))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.monotonic()
        if now - self._last_step_s >= STEP_EVENT_INTERVAL_S or state.global_step == state.max_steps:
            self._last_step_s = now
            self._events.emit(records.Step(step=state.global_step, max_steps=state.max_steps, epoch=_epoch(state)))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if "loss" in logs:
            fields = {k: logs[k] for k in ("loss", "grad_norm", "learning_rate") if k in logs}
            self._events.emit(records.Log(step=state.global_step, epoch=_epoch(state), **fields))

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        now = time.monotonic()
        if now - self._last_step_s >= STEP_EVENT_INTERVAL_S:
            self._last_step_s = now
            done, total = self._trainer.eval_progress
            self._events.emit(records.EvalStep(step=done, max_steps=total))

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.epochs.append({"epoch": _epoch(state), "train_loss": self._trainer.take_epoch_loss()})
        if not control.should_evaluate:
            self._events.emit(records.Epoch.of(self.epochs[-1]))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        figures = {k.removeprefix("eval_") if k != "eval_loss" else k: v for k, v in metrics.items()}
        figures = {k: v for k, v in figures.items() if k in ("eval_loss", *self._trainer.metric_names)}
        if self._trainer.has_best_model:  # of another step than this one: of metrics.json's `final`, and of no epoch
            return
        self._events.emit(records.Eval(step=state.global_step, epoch=_epoch(state), more=figures))
        if self.epochs and self.epochs[-1]["epoch"] == _epoch(state):
            self.epochs[-1].update(figures)
            self._events.emit(records.Epoch.of(self.epochs[-1]))


class Beats(TrainerCallback):
    """Beats of the training loop. Steps are counted as finished ones; saving and loading beat in the store."""

    def __init__(self, heart: Heart) -> None:
        self._heart = heart

    # fmt: off
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._heart.beat("train", state.global_step)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._heart.beat("step", state.global_step)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._heart.beat("substep", state.global_step)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._heart.beat("optimizer", state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._heart.beat("between steps", state.global_step)

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._heart.beat("evaluation", state.global_step)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._heart.beat("evaluated", state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._heart.beat("saved", state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._heart.beat("trained", state.global_step)
    # fmt: on


def _epoch(state: TrainerState) -> float:
    return round(float(state.epoch or 0.0), 4)
