"""Events of rank 0."""

from __future__ import annotations

from pathlib import Path

from launcher.rundir.events import append_event
from launcher.rundir.records import Event

STEP_EVENT_INTERVAL_S = 0.2
"""Step events come at most this often; the last step of all always has one."""


class Events:
    """The run's events; only the first rank writes."""

    def __init__(self, path: Path, *, enabled: bool) -> None:
        self._path = path
        self._enabled = enabled

    def emit(self, event: Event) -> None:
        """Append one event."""
        if self._enabled:
            append_event(self._path, event)
