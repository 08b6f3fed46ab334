"""Standard output and standard error. With a job behind a command they may be lost (a reader that leaves, a full disk, a
closed window), and nothing else is lost with them."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
import time
from typing import Any

from launcher.messages import Message

LOOK_S = 0.5
STOPPING_S = 5.0
"""How long a reader that takes nothing may hold up a command whose job is to stop."""
NAMES = {1: Message("standard output"), 2: Message("standard error")}
_closed: set[int] = set()
_made: list[_Stream] = []
_patience = [float("inf")]


class _Stream(io.FileIO):
    """What is below sys.stdout or sys.stderr. A failed write names the stream, so that it is not taken for another file's
    trouble; where the stream may be lost, the text is left out instead."""

    def __init__(self, number: int, *, may_be_lost: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.may_be_lost = may_be_lost
        self.lost_by = ""

    def write(self, data: Any) -> int:
        try:
            while True:
                self._wait()
                count = super().write(memoryview(data)[: select.PIPE_BUF])
                if count is not None:  # else another program made the terminal non-blocking
                    return count
        except OSError as error:
            if not self.may_be_lost:
                error.filename = NAMES[self.fileno()]
                raise
            self._lose(error)
        return memoryview(data).nbytes

    def _wait(self) -> None:
        """Until the reader takes something: as long as it likes, but once the job is to stop."""
        while not select.select([], [self], [], min(LOOK_S, max(0.0, _patience[0] - time.monotonic())))[1]:
            if time.monotonic() >= _patience[0]:
                raise BlockingIOError(errno.EAGAIN, "nobody reads it")

    def _lose(self, error: OSError) -> None:
        if self.lost_by:
            return
        self.lost_by = error.strerror or str(error)
        if self.fileno() == 1:
            print(
                Message(
                    "{names}: {lost_by}: nothing more is shown there; the job goes on",
                    names=NAMES[1],
                    lost_by=self.lost_by,
                ),
                file=sys.stderr,
            )


def settle(*, may_be_lost: bool = False) -> None:
    """Have sys.stdout and sys.stderr go through this module; before anything is written.

    Standard error may always be lost: there is nobody left to tell. Standard output is a command's result, and
    may be lost from `outlive` on, or from the start with `may_be_lost`, as a log's of a rank.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would take its place, here and in what is started
            _closed.add(number)
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _text(1, sys.stdout, may_be_lost=may_be_lost)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _text(2, sys.stderr, may_be_lost=True)


def _text(number: int, before: Any, *, may_be_lost: bool) -> io.TextIOWrapper:
    _made.append(_Stream(number, may_be_lost=may_be_lost))
    is_by_line = number == 2 or getattr(before, "line_buffering", False) or bool(os.environ.get("PYTHONUNBUFFERED"))
    encoding = getattr(before, "encoding", None) or "utf-8"
    # A name that is not UTF-8 is shown all the same.
    return io.TextIOWrapper(io.BufferedWriter(_made[-1]), encoding, "backslashreplace", line_buffering=is_by_line)


def hurry() -> None:
    """The job is to stop: a reader that stands still is waited for no longer than STOPPING_S. For signal handlers."""
    _patience[0] = min(_patience[0], time.monotonic() + STOPPING_S)


def is_closed(number: int) -> bool:
    """Whether whoever started this process gave it no such stream."""
    return number in _closed


def outlive() -> None:
    """From here on a job is behind this command: what cannot be shown is left out, a closed window (SIGHUP) ends nothing,
    and the exit code is the job's."""
    for stream in _made:
        stream.may_be_lost = True
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it already
        signal.signal(signal.SIGHUP, lambda number, frame: None)  # unlike SIG_IGN not inherited by what is started
