"""What a training tells while it runs: lines of events.jsonl from the first rank, and a check before the first step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.recipe.metrics import LOSS, of_sets
from launcher.rundir import records
from launcher.worker.runtime.events import STEP_EVENT_INTERVAL_S, Events


class EvalProgress(NamedTuple):
    """How far an evaluation is."""

    done: int
    total: int
    of_texts: bool = False
    """Rows whose texts are written, and not batches."""


class Progress(TrainerCallback):
    """Events of the training loop, and the table row of each epoch."""

    def __init__(
        self,
        events: Events,
        epochs: list[dict[str, Any]],
        metric_names: Sequence[str],
        *,
        check_engine: Callable[[], dict[str, Any]],
        take_epoch_loss: Callable[[], float | None],
        eval_progress: Callable[[], EvalProgress],
        has_best_model: Callable[[], bool],
        set_names: Sequence[str] = (),
    ) -> None:
        """
        Args:
            epochs: metrics.json's `epochs`, which gets a row here: epoch, train_loss (mean over the epoch's steps), and
                the figures of an evaluation at its end.
            metric_names: of the figures that a row has beside the loss.
            check_engine: refuses an engine other than the plan's, and returns what the event `engine` says of it.
            take_epoch_loss: the mean loss since it was last called; every rank calls it.
            eval_progress: of the evaluation that is under way.
            has_best_model: whether the weights are the best checkpoint's again, and no longer the last step's.
            set_names: of the sets that are evaluated each for itself.
        """
        self._events = events
        self._epochs = epochs
        self._metric_names = metric_names
        self._check_engine = check_engine
        self._take_epoch_loss = take_epoch_loss
        self._eval_progress = eval_progress
        self._has_best_model = has_best_model
        self._set_names = set_names
        self._last_step_s = 0.0
        self._is_emitted = False
        """Whether the last epoch has its event; an evaluation after the training adds its figures to the row alone."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._events.emit(records.Engine.of(self._check_engine()))
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
            done, total, of_texts = self._eval_progress()
            self._events.emit(records.EvalStep(step=done, max_steps=total, of_texts=of_texts or None))

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._epochs.append({"epoch": _epoch(state), "train_loss": self._take_epoch_loss()})
        self._is_emitted = not control.should_evaluate
        if self._is_emitted:
            self._events.emit(records.Epoch.of(self._epochs[-1]))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        figures = {k.removeprefix("eval_") if k != "eval_loss" else k: v for k, v in metrics.items()}
        shown = (LOSS, *self._metric_names)
        figures = {k: v for k, v in figures.items() if k == "eval_loss" or k in of_sets(shown, self._set_names)}
        if self._has_best_model():  # of another step than this one: of metrics.json's `final`, and of no epoch
            return
        self._events.emit(records.Eval(step=state.global_step, epoch=_epoch(state), more=figures))
        if self._epochs and self._epochs[-1]["epoch"] == _epoch(state):
            self._epochs[-1].update(figures)
            if not self._is_emitted:
                self._is_emitted = True
                self._events.emit(records.Epoch.of(self._epochs[-1]))


def _epoch(state: TrainerState) -> float:
    return round(float(state.epoch or 0.0), 4)
