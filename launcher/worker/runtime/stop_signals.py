"""The signals by which a rank is asked to save and leave."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from launcher.worker.runtime import failure

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


_received: int | None = None


class Preempted(BaseException):
    """All ranks have stopped at one step. Not an Exception: nothing on the way up may take it for a failure."""


class EvaluationStopped(BaseException):
    """All ranks have stopped in the same batch of an evaluation."""


def received() -> int | None:
    """The first signal that this process was sent, if any."""
    return _received


def install(error_path: Path, rank: int, signals: Sequence[signal.Signals] = SIGNALS) -> None:
    """Note these signals from now on. For the main thread of a rank, after it was forked.

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

    for number in signals:
        signal.signal(number, note)
    owner = os.getpid()
    os.register_at_fork(after_in_child=lambda: _forget(owner, signals))


def _forget(owner: int, signals: Sequence[signal.Signals]) -> None:
    """In a process that this rank forked: SIGTERM is for it where the rank sends it, and SIGUSR1 never is."""
    if os.getppid() != owner or signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN):
        return
    if signal.SIGUSR1 in signals:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # A handler in Python cannot learn who sent a signal, so a thread waits for it. torch's own handler, which a DataLoader
    # worker gets later, would end it for whoever sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != owner:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
