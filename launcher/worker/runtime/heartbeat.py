"""A rank's sign of life: its last step and phase in a small file, which the agent reads to find the one that hangs. No torch
here: the agent has none.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from launcher import confined, files
from launcher.rundir import paths

_SIZE = 64
"""Bytes of a beat."""
_READS = 8
"""How often a beat is read until two agree; each is as new as the last."""

STARTED = "start"
"""The phase of a program's rank that has not come to anything that is watched."""
TRAINED = "trained"
"""The phase of one whose training is over: it may stand still for ever."""

_stacks: TextIO | None = None
"""Open for as long as the process lives: faulthandler writes to its descriptor from a signal handler."""


@dataclass(frozen=True)
class Beat:
    """The latest sign of life."""

    time_ns: int
    """On the monotonic clock, which all processes of a host share."""
    step: int
    phase: str


def read_beat(path: Path) -> Beat | None:
    """A rank's latest beat, or None where it has not beaten yet."""
    try:
        text = confined.read(path, _SIZE)
        # No processor promises that a write is seen at once as a whole, and half a time may be one of long ago.
        for _ in range(_READS):
            if text == (text := confined.read(path, _SIZE)):
                break
        time_ns, step, phase = text.decode("ascii").split(maxsplit=2)
        return Beat(int(time_ns), int(step), phase.strip())
    except (OSError, ValueError):
        return None


class Heart:
    """Writes this rank's beats.

    A beat is one pwrite into the page cache, about 3 microseconds on a local disk, so every one is written: a beat held
    back for its cost would show a rank in a phase that it has left.
    """

    def __init__(self, path: Path) -> None:
        self._file = confined.open_write(path, files.root_of(path.parent), 0)
        self._is = _identity(self._file)
        self._step = 0

    def beat(self, phase: str, step: int | None = None) -> None:
        """Say that `phase` begins now. Never fails: a full disk must not end a training for this."""
        if step is not None:
            self._step = step
        line = f"{time.monotonic_ns()} {self._step} {phase}".encode("ascii", "replace")
        try:
            if _identity(self._file) != self._is:
                return  # the program closed every descriptor, and this number is a file of its own now
            os.pwrite(self._file, line[: _SIZE - 1].ljust(_SIZE - 1) + b"\n", 0)
        except OSError:
            return


def _identity(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return status.st_dev, status.st_ino


def dump_stacks_on_signal(path: Path) -> None:
    """On SIGUSR2, add the Python stacks of all threads to `path`, also while the main thread waits in a collective."""
    global _stacks
    _stacks = os.fdopen(paths.open_append(path), "a", encoding="utf-8")
    faulthandler.register(signal.SIGUSR2, file=_stacks, all_threads=True, chain=False)
