"""What the hooks of one rank share. No torch here: a rank imports it when its program does, or never."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from launcher.messages import Message, translated
from launcher.rundir import records
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event
from launcher.worker.runtime import heartbeat
from launcher.worker.runtime.events import STEP_EVENT_INTERVAL_S, Events
from launcher.worker.runtime.heartbeat import Heart


class Watched:
    """This rank, as its hooks see it."""

    def __init__(self, run: RunDir, attempt: int, index: int, world_size: int = 1) -> None:
        self.run = run
        self.attempt = attempt
        self.index = index
        self.world_size = world_size
        self.step = 0
        self.max_steps: int | None = None
        self.counts_steps = ""
        """The library that counts the steps; '' where they are an optimizer's."""
        self.is_preempted = False
        """Whether the rank saved because it was asked to stop, and now ends."""
        self._heart = Heart(run.attempt(attempt) / f"beat_{index}")
        self._events = Events(run.events_path, enabled=index == 0)
        self._process = os.getpid()
        self._said_step = 0
        self._said_step_s = float("-inf")
        self._given_up: set[str] = set()
        self.beat(heartbeat.STARTED)

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_own_process(self) -> bool:
        """False in what the rank forked: its DataLoader's workers have these hooks too."""
        return os.getpid() == self._process

    def guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same, which never raises an Exception: after the first, all hooks of this name do nothing any more."""

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if name in self._given_up:
                return None
            try:
                return function(*args, **options)
            except Exception as error:
                self.give_up(name, error)
                return None

        return call

    def give_up(self, name: str, error: Exception) -> None:
        """Say once, in the rank's log, that something could not be watched."""
        if name in self._given_up:
            return
        self._given_up.add(name)
        text = Message(
            "ascend-launch: {name} is not watched from here on: {kind}: {error}",
            name=name,
            kind=type(error).__name__,
            error=error,
        )
        print(translated(text), file=sys.stderr, flush=True)

    def has_given_up(self, name: str) -> bool:
        return name in self._given_up

    def beat(self, phase: str) -> None:
        """A sign of life."""
        if self.is_own_process:
            self._heart.beat(phase, self.step)

    def stepped(self, step: int | None = None, epoch: float | None = None) -> None:
        """A step of the training is done: the next one, or the one of this number."""
        if not self.is_own_process:
            return
        self.step = self.step + 1 if step is None else step
        self._heart.beat("the end", self.step)
        if self.is_first:
            now = time.monotonic()
            if now - self._said_step_s >= STEP_EVENT_INTERVAL_S or self.step == self.max_steps:
                self._say_step(now, epoch)

    def _say_step(self, now: float, epoch: float | None) -> None:
        self._said_step, self._said_step_s = self.step, now
        known = {"max_steps": self.max_steps, "epoch": epoch}
        self.emit(records.Step.of({"step": self.step, **{k: v for k, v in known.items() if v is not None}}))

    def emit(self, event: Event) -> None:
        """Append an event, where this is the first rank."""
        if self.is_own_process:
            self._events.emit(event)

    def end(self) -> None:
        """The program has ended."""
        if self.is_first and self.step > self._said_step:
            self._say_step(time.monotonic(), None)
