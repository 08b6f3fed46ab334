"""The processes that the zygote has started for an agent, and the pipe to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.worker.agent import zygote

POLL_S = 0.1
"""How soon a signal or another node's message is acted on; a rank's end is heard at once."""


@dataclass
class Child:
    """One process that the zygote started for us."""

    pid: int
    rank: int | None
    log: Path
    """The end of its output is in it."""
    exit_code: int | None = None
    """As subprocess counts: negative for a signal; None while it runs."""
    ended_ns: int = 0
    was_signalled: bool = False
    """Whether it was signalled before it ended: then its end caused nothing."""


@dataclass
class Children:
    """The processes of one step: a trial, the preparation, or an attempt's ranks."""

    pipe: Connection
    started: list[Child] = field(default_factory=list)

    def forget(self) -> None:
        """Begin another step: those before have ended."""
        self.started = []

    def start(self, job: zygote.Job) -> Child:
        """Have a process started, and wait until it is."""
        self.pipe.send(("start", job))
        while True:
            message = self._receive()
            if isinstance(message, zygote.Started):
                child = Child(message.pid, job.rank, job.stderr_log or job.log)
                self.started.append(child)
                return child
            self._on_end(message)

    def listen(self) -> None:
        """Hear of an end, or wait for POLL_S."""
        if self.pipe.poll(POLL_S):
            self._on_end(self._receive())

    def _receive(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:
            raise LaunchError(
                "the process that starts ranks was killed, and every rank with it",
                hint="most likely the kernel ran out of host memory: use fewer ranks or a smaller batch",
                exit_code=EXIT_JOB_FAILED,
            ) from None

    def _on_end(self, message: zygote.Ended) -> None:
        for child in self.started:
            if child.pid == message.pid:
                child.exit_code, child.ended_ns = message.exit_code, message.time_ns

    def signal(self, number: int) -> None:
        """Send a signal to each that runs."""
        running = self.running
        for child in running:
            child.was_signalled = True
        self.pipe.send(("signal", (number, {c.pid for c in running})))

    @property
    def running(self) -> list[Child]:
        """Those that have not ended."""
        return [c for c in self.started if c.exit_code is None]
