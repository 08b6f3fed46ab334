"""What both sides of a run directory tell each other, typed once: events (lines of events.jsonl) and failures.

Reading takes whatever any version wrote: an unknown kind of event or key is kept and written again as it was, a value of
another type than it has here counts as absent and is named in `wrong`. Nothing that is read raises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, TypeVar

from launcher import scrub
from launcher.messages import Message, plural
from launcher.rundir import collectives
from launcher.rundir.collectives import Difference
from launcher.rundir.record import Record, is_scalar, read

if TYPE_CHECKING:
    from typing_extensions import Unpack

_E = TypeVar("_E", bound="Event")


class Event(Record):
    """One event. The fields of its kind stand in the order in which they are written."""

    kind: ClassVar[str] = ""
    time: float | None = None
    """Wall clock in seconds; stamped when it is appended."""

    @classmethod
    def of(cls: type[_E], facts: Mapping[str, Any]) -> _E:
        """An event of this kind from facts by key, which are written in their order."""
        return _event(cls, {"event": cls.kind, **facts})

    @property
    def figures(self) -> dict[str, Any]:
        """What it says beyond its fields, by key: the scores of an evaluation, null where one has no value."""
        return {key: value for key, value in self.more.items() if key not in self.layout.by_key}


class Other(Event):
    """An event of a kind that is not known here, or without what its kind needs. All of it is in `more`."""


class Machine(Event):
    """A launch begins: the machine's hard and software. More facts of the doctor's are in `more`."""

    kind: ClassVar[str] = "machine"
    memory_bytes: int | None = None
    versions: dict[str, Any] | None = None
    chips: list[Any] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Everything it says, by key, but for what cannot be read."""
        left_out = ("event", "time", *self.wrong)
        return {key: value for key, value in self.to_json().items() if key not in left_out}


class Note(Event):
    """Something that the user should know."""

    kind: ClassVar[str] = "note"
    text: str | None = None
    failed_saves: int | None = None
    """How many checkpoints in a row could not be saved."""


class Imported(Event):
    """The agent has imported what ranks need."""

    kind: ClassVar[str] = "imported"
    seconds: float | None = None


class Preload(Event):
    """What was imported once for all ranks of a program, and why not more."""

    kind: ClassVar[str] = "preload"
    modules: list[str] | None = None
    reason: str | None = None


class StartMethod(Event):
    """How ranks are started: fork or spawn."""

    kind: ClassVar[str] = "start_method"
    method: str | None = None
    reason: str | None = None


class Ranks(Event):
    """An attempt's ranks of the first node have been started."""

    kind: ClassVar[str] = "ranks"
    attempt: int | None = None
    pids: list[int] | None = None


class Restart(Event):
    """Another attempt begins: which of how many restarts, and the failure before it."""

    kind: ClassVar[str] = "restart"
    keys_of: ClassVar[Mapping[str, str]] = {"of_restarts": "of"}
    nulls: ClassVar[tuple[str, ...]] = ("rank", "what")
    attempt: int | None = None
    of_restarts: int | None = None
    rank: int | None = None
    what: str | None = None


class Hang(Event):
    """All ranks of a node stand still."""

    kind: ClassVar[str] = "hang"
    what: str | None = None


class Stopping(Event):
    """The launcher was sent a signal (by name) and passes it on."""

    kind: ClassVar[str] = "stopping"
    signal: str | None = None


class Stopped(Event):
    """The job ended because it was stopped, by this signal's number where it came from outside."""

    kind: ClassVar[str] = "stopped"
    nulls: ClassVar[tuple[str, ...]] = ("signal",)
    signal: int | None = None


class Start(Event):
    """The first rank has its data and goes on to the model. Facts of the plan are in `more`."""

    kind: ClassVar[str] = "start"


class Engine(Event):
    """The engine that wraps the model, as it was found."""

    kind: ClassVar[str] = "engine"
    engine: str | None = None
    world_size: int | None = None
    backend: str | None = None
    device: str | None = None
    precision: str | None = None
    zero_stage: int | None = None
    parameters: int | None = None
    local_parameters: int | None = None
    """Held by rank 0."""


class Train(Event):
    """Training begins."""

    kind: ClassVar[str] = "train"
    max_steps: int
    num_train_epochs: float


class Step(Event):
    """A step is done; not every one has an event."""

    kind: ClassVar[str] = "step"
    also_needed: ClassVar[tuple[str, ...]] = ("time",)
    step: int
    max_steps: int | None = None
    epoch: float | None = None


class Log(Event):
    """A line of the training's log."""

    kind: ClassVar[str] = "log"
    step: int
    epoch: float | None = None
    loss: float | None = None
    """Mean over the steps since the last such event."""
    grad_norm: float | None = None
    learning_rate: float | None = None


class Rates(Event):
    """Speed and memory since the last such event; see worker/rates.py. Lists have an entry for each rank."""

    kind: ClassVar[str] = "rates"
    step: int
    steps: int
    seconds: float
    rows: int
    tokens: int
    data_s: list[float] | None = None
    forward_s: list[float] | None = None
    host_bytes: list[int] | None = None
    host_peak_bytes: list[int] | None = None
    device_bytes: list[int] | None = None
    device_peak_bytes: list[int] | None = None


class EvalStep(Event):
    """Batches of an evaluation that are done, and all of it."""

    kind: ClassVar[str] = "eval_step"
    also_needed: ClassVar[tuple[str, ...]] = ("time",)
    step: int
    max_steps: int
    of_texts: bool | None = None
    """Whether they are rows whose texts the model writes, and not batches."""


class Eval(Event):
    """An evaluation: eval_loss and scores are its `figures`."""

    kind: ClassVar[str] = "eval"
    also_needed: ClassVar[tuple[str, ...]] = ("time",)
    step: int
    epoch: float | None = None

    @property
    def eval_loss(self) -> float | None:
        value = self.more.get("eval_loss")
        return value if is_scalar(value) else None


class Epoch(Event):
    """An epoch is over: train_loss, and the figures of an evaluation at its end, are its `figures`."""

    kind: ClassVar[str] = "epoch"
    nulls: ClassVar[tuple[str, ...]] = ("epoch",)
    epoch: float | None = None


class Save(Event):
    """A checkpoint is whole."""

    kind: ClassVar[str] = "save"
    step: int | None = None
    path: str | None = None
    seconds: float | None = None


class Resume(Event):
    """Training goes on from a checkpoint."""

    kind: ClassVar[str] = "resume"
    nulls: ClassVar[tuple[str, ...]] = ("epoch", "saved_strategy")
    path: str | None = None
    step: int | None = None
    epoch: float | None = None
    world_size: int | None = None
    saved_world_size: int | None = None
    saved_strategy: str | None = None
    notes: list[str] | None = None


class Preempted(Event):
    """All ranks stop at one step, by signals of these names."""

    kind: ClassVar[str] = "preempted"
    step: int | None = None
    saved: bool | None = None
    signal: str | None = None


class Model(Event):
    """The trained model has been written."""

    kind: ClassVar[str] = "model"
    path: str | None = None


class End(Event):
    """The job is done; its final figures are in `more`."""

    kind: ClassVar[str] = "end"


class Ready(Event):
    """A rank of a prediction waits for rows."""

    kind: ClassVar[str] = "ready"
    rank: int | None = None
    device: str | None = None


class Planned(Event):
    """Only on a screen with --json, as all that follow: what is about to run."""

    kind: ClassVar[str] = "plan"
    run_dir: str | None = None
    plan: dict[str, Any] | None = None


class Output(Event):
    """What a rank of a program wrote, for the launcher that started this one on another machine."""

    kind: ClassVar[str] = "output"
    rank: int | None = None
    stream: int | None = None
    text: str | None = None


class Submitted(Event):
    """A job is in the queue."""

    kind: ClassVar[str] = "submitted"
    job: str | None = None
    output: str | None = None
    script: str | None = None


class QueueState(Event):
    """A job's state in the queue changed; the scheduler's facts are in `more`."""

    kind: ClassVar[str] = "job"


class Ended(Event):
    """How a launch ended."""

    kind: ClassVar[str] = "outcome"
    keys_of: ClassVar[Mapping[str, str]] = {"continue_with": "continue"}
    nulls: ClassVar[tuple[str, ...]] = ("explanation", "failure", "metrics", "report", "continue_with")
    explanation: dict[str, Any] | None = None
    exit_code: int | None = None
    failure: dict[str, Any] | None = None
    """A failure's JSON object; see `failure`."""
    metrics: dict[str, Any] | None = None
    report: str | None = None
    continue_with: str | None = None


_KINDS: dict[str, type[Event]] = {
    record.kind: record
    for record in (
        Machine,
        Note,
        Imported,
        Preload,
        StartMethod,
        Ranks,
        Restart,
        Hang,
        Stopping,
        Stopped,
        Start,
        Engine,
        Train,
        Step,
        Log,
        Rates,
        EvalStep,
        Eval,
        Epoch,
        Save,
        Resume,
        Preempted,
        Model,
        End,
        Ready,
        Planned,
        Output,
        Submitted,
        QueueState,
        Ended,
    )
}


def event(value: Mapping[str, Any]) -> Event:
    """The event that a JSON object is; `Other` where its kind is not known, or lacks what its kind needs."""
    kind = value.get("event")
    return _event(_KINDS.get(kind, Other) if isinstance(kind, str) else Other, value)


def _event(record: type[_E], value: Mapping[str, Any]) -> Any:
    made = read(record, value)
    if record.layout.needed <= made.__dict__.keys():
        return made
    other = read(Other, value)
    other.__dict__["wrong"] = made.wrong
    return other


def event_in(line: str) -> Event | None:
    """The event that a line of a launcher's --json output is; None where it is not an event."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event(value) if isinstance(value, dict) and isinstance(value.get("event"), str) else None


class Findings:
    """What could not be read of a run's events."""

    def __init__(self) -> None:
        self._lines = self._num_bad = self._num_wrong = 0
        self._first_wrong = ""

    def add(self, event: Event | None) -> None:
        """Take in the next line's event; None where it is none."""
        self._lines += 1
        if event is None:
            self._num_bad += 1
        elif event.wrong:
            self._num_wrong += 1
            self._first_wrong = self._first_wrong or f"line {self._lines}: {wrong_text(event)}"

    @property
    def texts(self) -> list[str]:
        """A sentence for each kind of finding."""
        bad, wrong = self._num_bad, self._num_wrong
        texts: list[str] = (
            [plural("{count} line is not an event", "{count} lines are not events", count=bad)] if bad else []
        )
        more = (
            Message(" (and {wrong} other line{detail} like it)", wrong=wrong - 1, detail="s" if wrong > 2 else "")
            if wrong > 1
            else ""
        )
        return [*texts, f"{self._first_wrong}{more}"] if wrong else texts


def wrong_text(record: Record) -> str:
    """What is of another type in a record: `loss is a str`."""
    return ", ".join(f"{key} is a {type(record.more[key]).__name__}" for key in record.wrong)


STALLED, NODE_LOST, EXIT = "Stalled", "NodeLost", "Exit"
"""Types of failures that are no exceptions: a rank stands still, a node is gone, a process ended without a word."""


class FailureFields(TypedDict, total=False):
    """The keys of error_<r>.json and failure.json."""

    rank: int | None
    type: str
    message: str
    traceback: str
    time_ns: int
    time: float
    weight: int
    what: str
    hint: str
    exit_code: int | None
    local_rank: int | None
    node_rank: int | None
    host: str
    attempt: int
    process_exit_code: int | None
    log: str
    ranks: list[Any]
    collective: dict[str, Any]
    explanation: dict[str, Any]


class Failure(Record):
    """Why a process, or the job, failed. Make one with `of`, which keeps the order of its keys for the file."""

    rank: int | None = None
    type: str = ""
    """The exception's class, or one of those above."""
    message: str = ""
    traceback: str = ""
    time_ns: int = 0
    """When, on the monotonic clock that all processes of a host share."""
    time: float | None = None
    weight: int = 0
    """How it is ranked before its time counts; see worker/failure.py."""
    what: str | None = None
    hint: str = ""
    exit_code: int | None = None
    """What the launcher ends with."""
    local_rank: int | None = None
    node_rank: int | None = None
    host: str = ""
    attempt: int | None = None
    process_exit_code: int | None = None
    log: str = ""
    ranks: list[Any] | None = None
    """Of a stall: what is known of each rank."""
    collective: dict[str, Any] | None = None
    """The first collective in which ranks part; see `difference`."""
    explanation: dict[str, Any] | None = None
    """What the logs say beyond it."""

    @property
    def difference(self) -> Difference | None:
        """What `collective` says, where it can be read."""
        return None if self.collective is None else collectives.difference(self.collective)

    @classmethod
    def of(cls, **values: Unpack[FailureFields]) -> Failure:
        """A failure whose keys are written in the order given."""
        return cls(**values, keys=tuple(values))

    def but(self, **values: Unpack[FailureFields]) -> Failure:
        """The same with other values; new keys come last."""
        return read(Failure, {**self.to_json(), **values})


def failure(value: Any) -> Failure | None:
    """The failure that a JSON value is; None where it is not an object, or an empty one."""
    return read(Failure, value) if isinstance(value, Mapping) and value else None


def without_secrets(failure: Failure) -> Failure:
    """The same without secrets and without what a terminal obeys."""
    return read(Failure, scrub.value(failure.to_json(), for_showing=True))
