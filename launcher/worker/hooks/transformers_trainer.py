"""transformers' Trainer and what is made of it: its figures, a checkpoint at a stop, and going on after a restart."""

from __future__ import annotations

import functools
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.rundir import records
from launcher.worker.hooks import trainer_stop
from launcher.worker.hooks.base import numbers
from launcher.worker.hooks.trainer_resume import Resumption
from launcher.worker.runtime.events import STEP_EVENT_INTERVAL_S
from launcher.worker.runtime.stop_signals import EvaluationStopped

if TYPE_CHECKING:
    from launcher.worker.hooks.base import Watched

NAME = "transformers.Trainer"
SPEED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "jit_compilation_time")
"""Ends of the names of figures that say how fast an evaluation was."""


def attach(module: ModuleType, watched: Watched) -> None:
    """Called with transformers.trainer, whose Trainer reads DEFAULT_CALLBACKS whenever one is made."""
    module.DEFAULT_CALLBACKS.append(guarded(Figures(watched), watched))
    _wrap_train(module.Trainer, watched)
    _wrap_evaluate(module.Trainer, watched)


def guarded(callback: TrainerCallback, watched: Watched) -> TrainerCallback:
    """The same, whose errors end no training."""
    for name in vars(type(callback)):
        if name.startswith("on_"):
            setattr(callback, name, watched.guarded(NAME, getattr(callback, name)))
    return callback


def _wrap_train(trainer_class: Any, watched: Watched) -> None:
    train, resumption = trainer_class.train, Resumption(watched)

    def begin(trainer: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        peers = trainer_stop.peers_of(trainer)
        resumption.count()
        told = (*args, options.get("resume_from_checkpoint"), options.get("trial"))
        path = resumption.path(trainer, peers) if all(value is None for value in told) else None
        stop = trainer_stop.Stop(watched, trainer, peers, resumption.ordinal)
        trainer.add_callback(guarded(stop, watched))  # the last of all
        return stop, {"resume_from_checkpoint": path} if path else {}

    begin_guarded = watched.guarded(NAME, begin)

    @functools.wraps(train)
    def watched_train(self: Any, *args: Any, **options: Any) -> Any:
        stop, more = begin_guarded(self, args, options) or (None, {})
        try:
            return train(self, *(() if more else args), **{**options, **more})
        finally:
            if stop is not None:
                stop.end()
                self.remove_callback(stop)

    trainer_class.train = watched_train


def _wrap_evaluate(trainer_class: Any, watched: Watched) -> None:
    evaluate = trainer_class.evaluate

    @functools.wraps(evaluate)
    def watched_evaluate(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return evaluate(self, *args, **options)
        except EvaluationStopped:
            trainer_stop.save(self)
            raise

    trainer_class.evaluate = watched_evaluate


class Figures(TrainerCallback):
    """Beats, and the events that a live view, a report and --json read."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._batches = self._loader = 0
        """Done of an evaluation or a prediction, and which that is."""
        self._said_s = 0.0

    # fmt: off
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._watched.begin_training(NAME, state.global_step, state.max_steps)
        self._watched.emit(records.Train(max_steps=state.max_steps, num_train_epochs=float(state.num_train_epochs)))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._watched.stepped(state.global_step, _epoch(state))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._watched.beat("saved")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._watched.end_training()
    # fmt: on

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        figures = numbers({name: logs.get(name) for name in ("loss", "grad_norm", "learning_rate")})
        if "loss" in figures:
            self._watched.emit(records.Log.of({"step": state.global_step, "epoch": _epoch(state), **figures}))

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **_: Any,
    ) -> None:
        self._watched.beat("evaluation")
        if self._loader != id(eval_dataloader):
            self._batches, self._loader = 0, id(eval_dataloader)
        self._batches += 1
        now = time.monotonic()
        if now - self._said_s >= STEP_EVENT_INTERVAL_S and hasattr(eval_dataloader, "__len__"):
            self._said_s = now
            self._watched.emit(records.EvalStep(step=self._batches, max_steps=len(eval_dataloader)))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        self._batches = 0
        self._watched.beat("evaluated")
        figures = {
            name if name == "eval_loss" else name.removeprefix("eval_"): value
            for name, value in numbers(metrics).items()
            if name != "epoch" and not name.endswith(SPEED)
        }
        self._watched.emit(records.Eval.of({"step": state.global_step, "epoch": _epoch(state), **figures}))


def _epoch(state: TrainerState) -> float:
    return round(float(state.epoch or 0.0), 4)
