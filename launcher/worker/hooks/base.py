"""What the hooks of one rank share. No torch here: a rank imports it when its program does, or never."""

from __future__ import annotations

import functools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from launcher.messages import Message, translated
from launcher.rundir import paths, records
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event
from launcher.worker.runtime import heartbeat
from launcher.worker.runtime.events import STEP_EVENT_INTERVAL_S, Events
from launcher.worker.runtime.heartbeat import Heart

LOG_EVERY_S = 5.0
"""Between two looks at a loss that is not logged by a library."""


class Watched:
    """This rank, as its hooks see it."""

    def __init__(self, run: RunDir, attempt: int, index: int) -> None:
        self.run = run
        self.attempt = attempt
        self.index = index
        self.step = 0
        self.max_steps: int | None = None
        self.has_trained = False
        """Whether a training is over and none has begun since."""
        self.counts_steps = ""
        """The library that counts the steps; '' where they are an optimizer's."""
        self.is_preempted = False
        """Whether the rank saved because it was asked to stop, and now ends."""
        self._heart = Heart(run.attempt(attempt) / f"beat_{index}")
        self.has_figures = False
        """Whether a library says the loss itself."""
        self.optimizer: Callable[[], Any] = lambda: None
        """The optimizer that steps; None where there is none."""
        self._loss: Any = None
        self._logged_s = time.monotonic()
        self._events = Events(run.events_path, enabled=index == 0)
        self._process = os.getpid()
        self._stepped_s = time.time()
        """When the latest step was done: the last one of all is said at the program's end."""
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

    def beat(self, phase: str) -> None:
        """A sign of life."""
        if self.is_own_process:
            self._heart.beat(heartbeat.TRAINED if self.has_trained else phase, self.step)

    def begin_training(self, library: str, step: int, max_steps: int) -> None:
        """A library trains, and counts its steps: from `step` on."""
        self.counts_steps, self.step, self.max_steps = library, step, max_steps
        self.has_figures = True
        self._said_step = step
        self.has_trained = False
        self.beat("train")

    def end_training(self) -> None:
        """It has come to its end: what the program does now may well be nothing."""
        self.end()
        self.counts_steps, self.max_steps, self.has_trained, self.has_figures = "", None, True, False
        self.beat(heartbeat.TRAINED)

    def stepped(self, step: int | None = None, epoch: float | None = None) -> None:
        """A step of the training is done: the next one, or the one of this number."""
        if not self.is_own_process:
            return
        self.step = self.step + 1 if step is None else step
        self.has_trained = False
        self._heart.beat("the end", self.step)
        if self.is_first:
            now, self._stepped_s = time.monotonic(), time.time()
            if now - self._said_step_s >= STEP_EVENT_INTERVAL_S or self.step == self.max_steps:
                self._say_step(now, epoch)
            if now - self._logged_s >= LOG_EVERY_S:
                self._say_loss(now)

    def _say_step(self, now: float, epoch: float | None) -> None:
        self._said_step, self._said_step_s = self.step, now
        known = {"max_steps": self.max_steps, "epoch": epoch, "time": round(self._stepped_s, 3)}
        self.emit(records.Step.of({"step": self.step, **{k: v for k, v in known.items() if v is not None}}))

    def note_loss(self, loss: Any) -> None:
        """The loss of a step, a tensor or a number. Its value is asked for later and seldom: a card must have computed it."""
        if self.is_first and not self.has_figures:
            self._loss = loss.detach() if hasattr(loss, "detach") else loss

    def _say_loss(self, now: float) -> None:
        loss, self._loss, self._logged_s = self._loss, None, now
        if loss is None or self.has_figures:
            return
        groups = getattr(self.optimizer(), "param_groups", None)
        rate = {"learning_rate": float(groups[0]["lr"])} if groups else {}
        self.emit(records.Log.of({"step": self.step, **numbers({"loss": loss, **rate})}))

    def emit(self, event: Event) -> None:
        """Append an event, where this is the first rank."""
        if self.is_own_process:
            self._events.emit(event)

    def leave_preempted(self) -> None:
        """The rank has saved, and ends because it was asked to."""
        self.is_preempted = True
        paths.touch(self.run.preempted_mark(self.attempt, self.index))

    def end(self) -> None:
        """The program has ended, or its training: the last step is said."""
        if self.is_first and self.step > self._said_step:
            self._say_step(time.monotonic(), None)
        if self.is_first:
            self.guarded("the loss", self._say_loss)(time.monotonic())


def numbers(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """Those of the figures that are numbers, as JSON has them: one that is not finite is null."""
    out: dict[str, float | None] = {}
    for name, value in figures.items():
        if isinstance(value, bool | str):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        out[name] = number if math.isfinite(number) else None
    return out
