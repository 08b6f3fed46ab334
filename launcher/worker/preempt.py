"""Being told to stop: a signal to any rank makes all of them save at one step and end with 143.

The handler only notes the signal. Between steps, and between batches of an evaluation, ranks add up their notes, about
four times a second; the sum is started at one such point and read at the next, so nobody waits for it, and all read the
same sum at the same point. Slurm's `--signal`, which reaches every process of a step, takes the same path.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher import records
from launcher.worker import failure

if TYPE_CHECKING:
    from launcher.worker.callbacks import Events
    from launcher.worker.peers import Peers, Sum
    from launcher.worker.schedule import Schedule

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

ASK_EVERY_S = 0.25
MAX_CALLS = 64
"""Steps or batches that may pass between two questions, however short they are."""

_received: int | None = None


class Preempted(BaseException):
    """All ranks have stopped at one step. Not an Exception: nothing on the way up may take it for a failure."""


class EvaluationStopped(BaseException):
    """All ranks have stopped in the same batch of an evaluation."""


def received() -> int | None:
    """The first signal that this process was sent, if any."""
    return _received


def install(error_path: Path, rank: int) -> None:
    """Note SIGTERM and SIGUSR1 from now on. For the main thread of a rank, after it was forked.

    DataLoader workers are forked from the rank and must not take its handler along: torch ends them with SIGTERM, and
    Slurm's signals, which reach every process of a step, must not kill what the save still needs.
    """
    global _received
    _received = None

    def note(number: int, frame: FrameType | None) -> None:
        global _received
        if _received is None:
            _received = number
            failure.record_in_flight(error_path, rank)

    for number in SIGNALS:
        signal.signal(number, note)
    owner = os.getpid()
    os.register_at_fork(after_in_child=lambda: _forget(owner))


def _forget(owner: int) -> None:
    """In a process that this rank forked: SIGTERM is for it where the rank sends it, and SIGUSR1 never is."""
    if os.getppid() != owner or signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN):
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # A handler in Python is not told who sent a signal, so a thread waits for it. torch's own handler, which a DataLoader
    # worker gets later, would end it for whoever sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != owner:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


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


class Question:
    """ "Was any of us told to stop?" """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._sum: Sum | None = None
        self._kind = self._asked_kind = ""
        self._calls = 0
        self._every = 1
        self._asked_s = time.monotonic()

    def answer(self, kind: str) -> bool:
        """Whether some rank had its signal when this was last asked; for all ranks at the same points.

        Args:
            kind: of the points; those of one kind take about the same time, so that they can be counted instead of
                timed: clocks of ranks would not agree on when to ask.
        """
        if self._peers.size == 1:
            return received() is not None
        if kind != self._kind:
            self._kind, self._every, self._calls = kind, 1, 0
        if self._sum is not None:
            num_told, total_us = self._sum.result()
            self._sum = None
            if num_told:
                return True
            mean_us = max(total_us / self._peers.size, 1.0)
            if self._asked_kind == kind:
                self._every = min(max(int(ASK_EVERY_S * 1e6 / mean_us), 1), MAX_CALLS)
        self._calls += 1
        if self._calls >= self._every:
            now = time.monotonic()
            call_us = int((now - self._asked_s) * 1e6 / self._calls)
            self._sum = self._peers.start_sum(int(received() is not None), call_us)
            self._calls, self._asked_s, self._asked_kind = 0, now, kind
        return False
