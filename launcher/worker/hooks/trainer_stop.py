"""A Trainer that is asked to stop, by a signal that its program leaves alone, saves as it always does, and the rank ends.

The ranks agree on the step: see launcher/worker/training/stop.py.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.errors import EXIT_TERMINATED
from launcher.messages import Message, translated
from launcher.rundir import records
from launcher.worker.runtime import stop_signals
from launcher.worker.runtime.peers import Peers
from launcher.worker.runtime.stop_signals import EvaluationStopped
from launcher.worker.training.stop_poll import Question

if TYPE_CHECKING:
    from launcher.worker.hooks.base import Watched

_peers: Peers | None = None


def peers_of(trainer: Any) -> Peers:
    """The ranks of the job, which all train when one of them does; made once."""
    global _peers
    if _peers is None or (_peers.size == 1 and trainer.args.world_size > 1):
        _peers = Peers()
    return _peers


def save(program: Any) -> None:
    """As a program's Trainer does where a step is to be saved."""
    program._save_checkpoint(program.model, None)
    program.control = program.callback_handler.on_save(program.args, program.state, program.control)


class Stop(TrainerCallback):
    """Of one training. Must be the last callback, so that what others do with a checkpoint is done."""

    def __init__(self, watched: Watched, trainer: Any, peers: Peers, ordinal: int) -> None:
        """
        Args:
            ordinal: which of the program's trainings this is.
        """
        self._watched = watched
        self._trainer = trainer
        self._peers = peers
        self._ordinal = ordinal
        self._question = Question(peers)
        self._is_stopping = self._is_installed = False

    # fmt: off
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        is_mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        if self._is_installed or not all(self._peers.gather(is_mine)):
            return
        run, index = self._watched.run, self._watched.index
        stop_signals.install(run.error_path(self._watched.attempt, index), index, (signal.SIGTERM,))
        self._is_installed = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self._is_installed:
            return
        self._is_stopping |= self._question.answer("step")
        if self._is_stopping:
            control.should_evaluate = False  # it may take longer than there is time
            control.should_save = True

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._is_installed and self._question.answer("batch"):
            self._is_stopping = True
            raise EvaluationStopped

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        numbers = {number for number in self._peers.gather(stop_signals.received()) if number is not None}
        # Every rank has written its part by now.
        folder = self._trainer._get_output_dir(trial=None)
        path = os.path.abspath(os.path.join(folder, f"checkpoint-{state.global_step}"))  # noqa: PTH100, PTH118 as Trainer has it
        self._watched.emit(records.Save.of({"step": state.global_step, "path": path, "training": self._ordinal}))
        if self._is_stopping:
            self._leave(state.global_step, path, ", ".join(sorted(signal.Signals(n).name for n in numbers)))
    # fmt: on

    def _leave(self, step: int, path: str, names: str) -> NoReturn:
        self._watched.emit(records.Preempted.of({"step": step, "saved": True, "signal": names, "path": path}))
        if self._watched.is_first:
            said = Message("ascend-launch: saved {path} at {names}; this rank ends", path=path, names=names)
            print(translated(said), file=sys.stderr, flush=True)
        self._watched.leave_preempted()
        raise SystemExit(EXIT_TERMINATED)

    def end(self) -> None:
        """The training is over, and a signal is the program's own again: one that came too late ends it as it would have."""
        if not self._is_installed:
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if stop_signals.received() is not None and not self._watched.is_preempted:
            os.kill(os.getpid(), signal.SIGTERM)
