"""events.jsonl, folded: the curves, the figures of each rank, and what befell a run. The live view and the report read it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from launcher.messages import Message, translated
from launcher.rundir import records
from launcher.rundir.records import Event


class Curve:
    """Values as the means of stretches of equal length: what a redraw looks at is as much after a week as after an hour."""

    MOST = 48

    def __init__(self) -> None:
        self.length = 1
        """Values of a full stretch."""
        self._sums: list[tuple[float, int]] = []

    def add(self, value: Any) -> None:
        """Takes in the next value; one that is not a finite number is passed over."""
        if not _is_number(value) or not math.isfinite(value):
            return
        if not self._sums or self._sums[-1][1] == self.length:
            self._sums.append((0.0, 0))
        total, count = self._sums[-1]
        self._sums[-1] = (total + value, count + 1)
        if len(self._sums) > self.MOST:
            pairs = itertools.zip_longest(self._sums[::2], self._sums[1::2], fillvalue=(0.0, 0))
            self._sums = [(a + b, m + n) for (a, m), (b, n) in pairs]
            self.length *= 2

    @property
    def means(self) -> list[float]:
        return [total / count for total, count in self._sums]


_Row = TypeVar("_Row", records.Log, records.Eval, records.Rates)


@dataclass(frozen=True)
class Incident:
    """What happened to a run: the kind of event that says so, when and at which step, and what it was."""

    event: str
    time: float | None
    step: int
    text: str


@dataclass
class History:
    """A run as far as its events tell; add them one by one, in order."""

    started: float | None = None
    """Wall clock of the first and the latest event."""
    latest: float | None = None
    phase: str = "importing torch and transformers"
    """What is going on, as text."""
    phase_since: float | None = None
    step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    num_epochs: float = 0.0
    evaluation: tuple[int, int] | None = None
    """Batches done and in all, while an evaluation is under way; or rows, where `generates`."""
    generates: bool = False
    """Whether the evaluation has come to the texts that the model writes."""
    logs: list[records.Log] = field(default_factory=list)
    """One a step, as the last attempt at that step had it."""
    evals: list[records.Eval] = field(default_factory=list)
    rates: list[records.Rates] = field(default_factory=list)
    """See `launcher/worker/training/rates.py`."""
    undone: list[list[records.Log]] = field(default_factory=list)
    """Logs of steps that were lost at a restart and done again."""
    incidents: list[Incident] = field(default_factory=list)
    """Restarts, hangs, stops and resumptions."""
    saves: list[int] = field(default_factory=list)
    """Steps of the checkpoints, in the order in which they were written."""
    notes: list[str] = field(default_factory=list)
    machine: records.Machine | None = None
    engine: records.Engine | None = None
    num_restarts: int = 0
    eval_seconds: float = 0.0
    """How long the latest evaluation took, as far as events tell."""
    losses: Curve = field(default_factory=Curve)
    """Of `logs`, by stretches."""
    _noted: set[str] = field(default_factory=set)
    _pace: float | None = None
    """Seconds per step before the steps were interrupted."""
    _step_times: list[tuple[float, int]] = field(default_factory=list)
    _eval_since: float | None = None

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        """All of a run's events."""
        history = cls()
        for event in events:
            history.add(event)
        return history

    def add(self, event: Event) -> None:
        """Take in one event. One that is not known is passed over: any version may have written it."""
        if event.time is not None:
            self.latest = event.time
            self.started = self.latest if self.started is None else self.started
        take = getattr(self, f"_on_{event.kind}", None)
        if take is not None:
            take(event)

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, evaluations on the way included; None before there is anything to judge by."""
        pace = self.seconds_per_step
        if pace is None or not self.max_steps:
            return None
        left = max(self.max_steps - self.step, 0)
        seconds = left * pace
        if self.evals and self.eval_seconds:
            every = max(self.evals[-1].step / len(self.evals), 1)
            seconds += int(left / every) * self.eval_seconds
        return seconds

    @property
    def seconds_per_step(self) -> float | None:
        """Of late: by the ranks' own clocks, else by the times of events."""
        if self.rates and self.rates[-1].steps:
            return self.rates[-1].seconds / self.rates[-1].steps
        if len(self._step_times) > 1:
            (t0, s0), (t1, s1) = self._step_times[0], self._step_times[-1]
            return (t1 - t0) / (s1 - s0) if s1 > s0 else None
        return self._pace

    # -- events ---------------------------------------------------------------------------------------------------

    def _enter(self, phase: str, event: Event) -> None:
        if phase != self.phase:
            self.phase, self.phase_since = phase, event.time

    def _on_machine(self, event: records.Machine) -> None:
        if self.machine is not None:  # a run that goes on: the agent of the next launch
            self._incident("resumed", event, "launched again")
        self.machine = event

    def _on_imported(self, event: records.Imported) -> None:
        self._enter("preparing the data", event)

    def _on_ranks(self, event: records.Ranks) -> None:
        self._enter("starting ranks", event)

    def _on_start(self, event: records.Start) -> None:
        self._enter("loading the model", event)

    def _on_note(self, event: records.Note) -> None:
        text = str(event.text)
        if text not in self._noted:
            self._noted.add(text)
            self.notes.append(text)

    def _on_engine(self, event: records.Engine) -> None:
        self.engine = event

    def _on_train(self, event: records.Train) -> None:
        self.max_steps, self.num_epochs = event.max_steps, event.num_train_epochs
        self._step_times.clear()
        self._enter("training", event)

    def _on_step(self, event: records.Step) -> None:
        self._leave_evaluation()
        self.step, self.epoch = event.step, self.epoch if event.epoch is None else event.epoch
        self.max_steps = event.max_steps or self.max_steps
        self._step_times = [*self._step_times[-20:], (event.time or 0.0, event.step)]
        self._pace = self.seconds_per_step
        self._enter("training", event)

    def _on_log(self, event: records.Log) -> None:
        self._leave_evaluation()
        step = event.step
        if lost := _cut(self.logs, step):
            self.undone.append(lost)
            _cut(self.evals, step)
            _cut(self.rates, step)
            self.losses = Curve()
            for row in self.logs:
                self.losses.add(row.loss)
        self.logs.append(event)
        self.losses.add(event.loss)
        self.step, self.epoch = step, self.epoch if event.epoch is None else event.epoch

    def _on_rates(self, event: records.Rates) -> None:
        _cut(self.rates, event.step)
        self.rates.append(event)

    def _on_eval_step(self, event: records.EvalStep) -> None:
        if self._eval_since is None:
            self._eval_since = event.time
        self.evaluation, self.generates = (event.step, event.max_steps), bool(event.of_texts)
        self._enter("evaluating", event)

    def _on_eval(self, event: records.Eval) -> None:
        if self._eval_since is not None and event.time is not None:
            self.eval_seconds = event.time - self._eval_since
        self._leave_evaluation()
        _cut(self.evals, event.step)
        self.evals.append(event)
        self._enter("saving the model" if self.step >= self.max_steps > 0 else "training", event)

    def _leave_evaluation(self) -> None:
        if self.evaluation is not None or self._eval_since is not None:
            self.evaluation = self._eval_since = None
            self._step_times.clear()

    def _on_save(self, event: records.Save) -> None:
        self.saves.append(self.step if event.step is None else event.step)
        self._step_times.clear()

    def _on_restart(self, event: records.Restart) -> None:
        self.num_restarts += 1
        who = "" if event.rank is None else Message("rank {rank}: ", rank=event.rank)
        self._incident(
            "restart",
            event,
            Message(
                "attempt {attempt} of {of_restarts}, after {who}{what}",
                attempt=event.attempt,
                of_restarts=event.of_restarts,
                who=who,
                what=translated(event.what or ""),
            ),
        )
        self._leave_evaluation()
        self._step_times.clear()
        self._enter("starting ranks again", event)

    def _on_hang(self, event: records.Hang) -> None:
        self._incident("hang", event, str(event.what))

    def _on_resume(self, event: records.Resume) -> None:
        self.step = event.step or 0
        ranks, before = event.world_size, event.saved_world_size
        change = (
            Message(", saved by {before} ranks and read by {ranks}", before=before, ranks=ranks)
            if ranks != before
            else ""
        )
        self._incident(
            "resume",
            event,
            Message("resumed from {rpartition}{change}", rpartition=str(event.path).rpartition("/")[2], change=change),
        )

    def _on_stopping(self, event: records.Stopping) -> None:
        self._incident("stopping", event, Message("asked to stop by {signal}", signal=event.signal))
        self._enter("stopping: ranks that train save first", event)

    def _on_preempted(self, event: records.Preempted) -> None:
        if self.incidents and self.incidents[-1].event == "preempted":
            self.incidents.pop()  # said once before saving and once after
        self.step = self.step if event.step is None else event.step
        kept = Message("a checkpoint was saved") if event.saved else Message("nothing was saved")
        self._incident(
            "preempted", event, Message("all ranks stopped at step {step}: {kept}", step=self.step, kept=kept)
        )

    def _on_stopped(self, event: records.Stopped) -> None:
        self._enter("stopped", event)

    def _on_model(self, event: records.Model) -> None:
        self._enter("writing the results", event)

    def _on_end(self, event: records.End) -> None:
        self._enter("done", event)

    def _incident(self, kind: str, event: Event, text: str) -> None:
        self.incidents.append(Incident(kind, event.time, self.step, text))


def _cut(rows: list[_Row], step: int) -> list[_Row]:
    """Takes the rows of `step` and later off the end of `rows`, whose steps ascend."""
    first = len(rows)
    while first and rows[first - 1].step >= step:
        first -= 1
    lost = rows[first:]
    del rows[first:]
    return lost


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
