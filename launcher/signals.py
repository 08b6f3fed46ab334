"""The signals that stop a job, and who hears them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What ends a job after saving. Slurm sends SIGUSR1 ahead of its time limit, where a job asks for that."""


@contextlib.contextmanager
def stop_signals_to(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Have `handler` called for the signals that end a job; then whoever had them before."""
    previous = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
