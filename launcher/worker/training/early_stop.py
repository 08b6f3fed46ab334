"""The end of a training whose evaluations no longer get better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.rundir import early_stop, records

if TYPE_CHECKING:
    from launcher.recipe.schema import EarlyStopping
    from launcher.worker.runtime.events import Events


class EarlyStop(TrainerCallback):
    """Ends the training after `patience` evaluations in a row that are no better than the best one before them.

    It counts as transformers' EarlyStoppingCallback does, with two differences: the best is that of all evaluations, whether
    their step was saved or not; and what was counted is part of a checkpoint.
    """

    def __init__(self, settings: EarlyStopping | None, events: Events) -> None:
        """
        Args:
            settings: of the recipe; None for a training that goes on to its end.
        """
        self._settings, self._events = settings, events
        self._is_training = False
        self._best: float | None = None
        self._best_step = 0
        self._evaluations = 0
        """In a row that were no better."""
        self._facts: dict[str, Any] = {}

    @property
    def is_over(self) -> bool:
        """Whether the training has been ended."""
        return bool(self._facts)

    @property
    def facts(self) -> dict[str, Any]:
        """Of metrics.json: when and why; nothing of a training that went on to its end."""
        return {early_stop.KEY: self._facts} if self._facts else {}

    def values(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        counted = {"best": self._best, "best_step": self._best_step, "evaluations": self._evaluations}
        return {**counted, "facts": self._facts}

    def set_values(self, values: dict[str, Any] | None) -> None:
        """As a checkpoint has them; None of one from before there were any."""
        if values is not None and self._settings is not None:
            self._best, self._best_step = values["best"], values["best_step"]
            self._evaluations, self._facts = values["evaluations"], values["facts"]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._is_training = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._is_training = False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        if self._settings is None or not self._is_training:
            return
        value = metrics[f"eval_{args.metric_for_best_model}"]
        self._count(value, state.global_step, self._settings.threshold, greater=bool(args.greater_is_better))
        if self._evaluations >= self._settings.patience and state.global_step < state.max_steps:
            self._end(args, state, self._settings.threshold)
            control.should_training_stop = True

    def _count(self, value: float, step: int, threshold: float, *, greater: bool) -> None:
        if self._best is None and math.isfinite(value):
            gain = math.inf
        else:
            gain = (value - (self._best or 0.0)) * (1 if greater else -1)  # NaN of a value that is none
        self._evaluations = 0 if gain > 0 and gain > threshold else self._evaluations + 1
        if gain > 0:
            self._best, self._best_step = value, step

    def _end(self, args: TrainingArguments, state: TrainerState, threshold: float) -> None:
        self._facts = {
            "step": state.global_step,
            "max_steps": state.max_steps,
            "epoch": state.epoch,
            "metric": args.metric_for_best_model,
            "best": self._best,
            "best_step": self._best_step,
            "evaluations": self._evaluations,
            "threshold": threshold,
        }
        self._events.emit(records.Note(text=early_stop.text(self.facts)))
