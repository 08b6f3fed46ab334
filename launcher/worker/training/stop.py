"""Stopping on request: a signal to any rank makes all of them save at one step and end with 143.

The handler only notes the signal. Between steps, and between batches of an evaluation, ranks add up their notes, about
four times a second; the sum is started at one such point and read at the next, so nobody waits for it, and all read the
same sum at the same point. Slurm's `--signal`, which reaches every process of a step, takes the same path.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.rundir import records
from launcher.worker.runtime.stop_signals import EvaluationStopped, Preempted, received
from launcher.worker.training.stop_poll import Question

if TYPE_CHECKING:
    from launcher.worker.runtime.events import Events
    from launcher.worker.runtime.peers import Peers


@dataclass
class Schedule:
    """What is still due. Trainer and `Stop` share one."""

    save_is_due: bool = False
    """A save was put off to the epoch's end."""
    evaluation_is_due: bool = False
    """An evaluation of this step was put off: to the epoch's end, or, so that a checkpoint was in time, to the resumed run."""

    @staticmethod
    def epoch_is_over(state: TrainerState) -> bool:
        """Whether this step is the last of its epoch, or of all."""
        epoch = state.epoch or 0.0
        return epoch == int(epoch) or state.global_step >= state.max_steps


class StopReport:
    """The event that says at which step all ranks stopped, and whether that step is saved."""

    def __init__(self, peers: Peers, events: Events, saved_step: Callable[[], int]) -> None:
        """
        Args:
            saved_step: the step of the newest checkpoint that is published or was resumed from.
        """
        self._peers = peers
        self._events = events
        self._saved_step = saved_step

    def leave(self, step: int) -> NoReturn:
        """Say what was kept of this step, and raise `Preempted`. Every rank must call it."""
        self.emit(step, saved=self._saved_step() == step)
        raise Preempted

    def emit(self, step: int, *, saved: bool) -> None:
        """Every rank must call it."""
        numbers = {n for n in self._peers.gather(received()) if n is not None}
        names = ", ".join(sorted(signal.Signals(n).name for n in numbers))
        self._events.emit(records.Preempted(step=step, saved=saved, signal=names))


class Stop(TrainerCallback):
    """Ends a training at a step that all ranks agree on, with a checkpoint of it. Must be the last callback.

    It also moves what falls on an epoch's last step to the epoch's end, where Trainer has done the epoch's own work: a
    checkpoint from before that would resume in the next epoch, and the row and evaluation of this one would be lost.
    """

    def __init__(self, peers: Peers, schedule: Schedule, report: StopReport, begin: Callable[[], None]) -> None:
        """
        Args:
            begin: has the trainer go on where a checkpoint was; called once all callbacks know that a training begins.
        """
        self._peers = peers
        self._schedule = schedule
        self._report = report
        self._begin = begin
        self._question = Question(peers)
        self._is_stopping = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if sum(self._peers.gather(received() or 0)):
            self._report.emit(state.global_step, saved=False)
            raise Preempted
        self._begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._is_stopping |= self._question.answer("step")
        if self._schedule.epoch_is_over(state):
            self._schedule.evaluation_is_due |= control.should_evaluate
            self._schedule.save_is_due |= control.should_save
            control.should_evaluate = control.should_save = False
        elif self._is_stopping:
            self._save_first(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_evaluate |= self._schedule.evaluation_is_due
        control.should_save |= self._schedule.save_is_due
        self._schedule.evaluation_is_due = False
        if self._is_stopping:
            self._save_first(control)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._question.answer("batch"):
            raise EvaluationStopped

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._is_stopping and not self._schedule.save_is_due:
            self._report.leave(state.global_step)

    def _save_first(self, control: TrainerControl) -> None:
        self._schedule.evaluation_is_due = control.should_evaluate
        control.should_evaluate = False
        control.should_save = True
