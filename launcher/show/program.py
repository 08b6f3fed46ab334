"""What a person sees of a job that is their own program: its output as it comes, and our words beside it on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType

from launcher.diagnose.explain.verdicts import Report
from launcher.errors import EXIT_OK
from launcher.messages import Message, translated
from launcher.planning.plan import Plan
from launcher.recipe.load import Loaded
from launcher.rundir import records
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event
from launcher.show import live
from launcher.show.console import err, out
from launcher.show.run import JsonView, View, failure
from launcher.show.text import Text

READ_BYTES = 1 << 16
SAY_EVERY_S = 30.0
"""Between two lines about the steps of a program, where there is no panel for them."""
DRAW_EVERY_S = 0.25


STDOUT, STDERR, BOTH = 1, 2, 3
"""The streams of a rank, as torchrun counts them."""


@dataclass(frozen=True)
class Source:
    """A log that is shown as it grows."""

    rank: int
    stream: int = BOTH
    """STDOUT or STDERR, where each has a log of its own and goes to that stream; BOTH goes to standard output."""
    prefixed: bool = False
    """Whether each line has the rank before it."""

    def path(self, run: RunDir, attempt: int) -> Path:
        logs = {STDOUT: run.stdout_log, STDERR: run.stderr_log, BOTH: run.rank_log}
        return logs[self.stream](attempt, self.rank)


class Output:
    """The output of some ranks of a run, read from their logs as it grows, over restarts too."""

    def __init__(
        self,
        run: RunDir,
        sources: tuple[Source, ...],
        *,
        role: str,
        write: Callable[[Source, bytes], None],
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            then: called whenever it was looked for more.
        """
        self.run = run
        self.then = then
        self.write = write
        self.sources = sources
        self.role = role
        self.attempt = run.last_attempt + 1
        self.offsets: dict[Path, int] = {}
        self.halves: dict[Source, bytes] = {}

    def __call__(self) -> bool:
        """Hand on what there is; whether there was anything."""
        has_data = self._read_attempt()
        if not has_data and self.run.attempt(self.attempt + 1).is_dir():
            self.attempt += 1
            has_data = True
        self.then()
        return has_data

    def _read_attempt(self) -> bool:
        has_data = False
        for source in self.sources:
            path = source.path(self.run, self.attempt)
            try:
                with path.open("rb") as file:
                    file.seek(self.offsets.get(path, 0))
                    data = file.read(READ_BYTES)
            except OSError:
                continue
            if data:
                has_data = True
                self.offsets[path] = self.offsets.get(path, 0) + len(data)
                self.write(source, self._lines(source, data) if source.prefixed else data)
        return has_data

    def _lines(self, source: Source, data: bytes) -> bytes:
        """Whole lines with the rank before each, as torchrun prints them."""
        whole, newline, half = (self.halves.get(source, b"") + data).rpartition(b"\n")
        self.halves[source] = half
        head = self._head(source)
        return b"".join(head + line + b"\n" for line in whole.split(b"\n")) if newline else b""

    def _head(self, source: Source) -> bytes:
        return f"[{self.role}{source.rank}]:".encode()

    def finish(self) -> None:
        """Everything that is left, half lines too."""
        while self():
            pass
        for source, half in self.halves.items():
            if half:
                self.write(source, self._head(source) + half + b"\n")


def output_event(source: Source, data: bytes) -> None:
    """Hand output on as an event, for the launcher that started this one on another machine."""
    if data:
        text = data.decode(errors="surrogateescape")  # JSON takes every byte so
        print(json.dumps(records.Output(rank=source.rank, stream=source.stream, text=text).to_json()), flush=True)


def show_output(source: Source, data: bytes) -> None:
    """Output on our stream that it is meant for."""
    ours = sys.stderr if source.stream == STDERR else sys.stdout
    ours.flush()
    stream = getattr(ours, "buffer", None)
    if stream is None:
        ours.write(data.decode(errors="replace"))
    else:
        stream.write(data)
    ours.flush()


def with_errors(shown: tuple[Source, ...]) -> tuple[int, ...]:
    """Ranks whose standard error, and so whose traceback, is shown."""
    return tuple(source.rank for source in shown if source.stream & STDERR)


def view(shown: tuple[Source, ...]) -> ProgramView:
    """With a panel where a person sees both the program's output and our words."""
    is_seen = all(stream.is_terminal and not stream.is_dumb_terminal for stream in (out, err))
    return ProgramLiveView(shown) if is_seen else ProgramView(shown)


class ProgramView(View):
    """Follows a program: stdout is the program's alone."""

    def __init__(self, shown: tuple[Source, ...] = (), who: str = "each rank runs") -> None:
        super().__init__()
        self.shown = shown
        self.who = who
        self._said_s: float | None = None
        """When the latest step was said."""

    def output(self, plan: Plan, run: RunDir) -> Output:
        """What the ranks print, as they print it."""
        assert plan.program is not None
        return Output(run, self.shown, role=plan.program.role, write=show_output)

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        assert plan.program is not None
        self.run = run
        where = f"{plan.nproc_per_node} x {plan.device}" + (f" ({plan.chip})" if plan.chip else "")
        nodes = (
            Message(
                " on each of {num_nodes} nodes ({nodes_reason})",
                num_nodes=plan.num_nodes,
                nodes_reason=plan.nodes_reason,
            )
            if plan.num_nodes > 1
            else ""
        )
        self._line(Message("ranks          {where}{nodes}", where=where, nodes=nodes))
        self._line(f"{self.who} {plan.program.command}")
        if plan.accelerate is not None:
            shown = " ".join(f"{name}={value}" for name, value in plan.accelerate_env.items())
            self._line(Message("accelerate     {version} sets {shown}", version=plan.accelerate.version, shown=shown))
        for note in plan.notes:
            self._line(Message("note           {note}", note=translated(note)))
        self._line(Message("run directory  {path}", path=run.path))

    def end(
        self, outcome: Outcome, run: RunDir, explained: Report | None, report_path: Path | None = None, again: str = ""
    ) -> None:
        if self.history.step:
            self._line(Message("training       {summary}", summary=live.summary(self.history)))
        if outcome.failure is not None:
            is_shown = outcome.failure.rank in with_errors(self.shown)  # and so is its traceback
            failure(outcome.failure.but(traceback="") if is_shown else outcome.failure, explained)
        elif outcome.exit_code != EXIT_OK:
            self._line(
                Message("stopped; every rank's output is in {attempt}", attempt=run.attempt(max(run.last_attempt, 0)))
            )
        if again:
            self._line(Message("start it again with:\n  {again}", again=again))

    def _on_preload(self, event: records.Preload) -> None:
        done = ", ".join(event.modules or ()) or "nothing"
        rest = Message("; not more: {reason}", reason=event.reason) if event.reason else ""
        self._line(Message("imported once  {done}{rest}", done=done, rest=rest))

    def _on_stopping(self, event: records.Stopping) -> None:
        again = Message("; ^C again ends them at once") if event.signal == "SIGINT" else ""
        self._line(Message("stopping       the ranks get {signal}{again}", signal=event.signal, again=again))

    def _on_step(self, event: records.Step) -> None:
        now = event.time or 0.0
        if self._said_s is None:
            self._said_s = now
        elif now - self._said_s >= SAY_EVERY_S:
            self._said_s = now
            self._line(Message("training       {summary}", summary=live.summary(self.history)))

    def _on_preempted(self, event: records.Preempted) -> None:
        path = event.more.get("path")
        self._line(
            Message(
                "saved          {path}, at step {step}, by {signal}", path=path, step=event.step, signal=event.signal
            )
        )

    def _on_resume(self, event: records.Resume) -> None:
        self._line(Message("resumed        a Trainer goes on from {path}", path=event.path))

    def _on_save(self, event: records.Save) -> None:
        """The program's own output may well say so."""

    def _on_log(self, event: records.Log) -> None:
        """Its output shows it, and the line about its training."""

    def _line(self, text: str) -> None:
        err.print(Text(text))


class ProgramLiveView(ProgramView):
    """Follows a program on a terminal: a panel below its output, for as long as the cursor is at the start of a line.

    What a program overwrites on its line, as tqdm does, is the panel's first line until it is finished; a prompt is left
    where it is, without a panel. Nothing that the program writes is changed or lost.
    """

    def __init__(self, shown: tuple[Source, ...] = ()) -> None:
        super().__init__(shown)
        self.console = Console(stderr=True, highlight=False)
        self.num_lines = 0
        """Of the panel, as it stands on the screen."""
        self.drawn_s = 0.0
        self.held = b""
        """A line that is being overwritten, which is not on the screen but in the panel."""
        self.is_at_start = True

    def __exit__(self, *error: object) -> None:
        self._erase()
        self._release()

    def output(self, plan: Plan, run: RunDir) -> Output:
        assert plan.program is not None
        return Output(run, self.shown, role=plan.program.role, write=self._write, then=self._draw)

    def _write(self, source: Source, data: bytes) -> None:
        self._erase()
        whole, newline, rest = (self.held + data).rpartition(b"\n")
        is_bar = b"\r" in rest and b"\x1b[A" not in rest
        self.held = rest[rest.rindex(b"\r") :] if is_bar else b""
        # Where a line was begun on the screen, it goes on there.
        if is_bar and (newline or self.is_at_start):
            self._show(source, whole + newline)
        else:
            self._show(source, whole + newline + rest)
            self.held = b""

    def _show(self, source: Source, data: bytes) -> None:
        if data:
            show_output(source, data)
            self.is_at_start = data.endswith(b"\n")

    def _draw(self) -> None:
        """The panel anew, when it is time."""
        now = time.monotonic()
        if now - self.drawn_s < DRAW_EVERY_S or not self.is_at_start or not (self.history.step or self.held):
            return
        self._erase()
        self.drawn_s = now
        size = self.console.size
        lines: list[RenderableType] = []
        if self.held:
            bar = self.held.decode(errors="replace").strip("\r")
            lines.append(Text(bar, no_wrap=True, overflow="crop"))
        if self.history.step:
            lines.append(live.panel(self.history, time.time(), width=size.width, height=size.height, is_program=True))
        with self.console.capture() as captured:
            self.console.print(Group(*lines))
        text = captured.get()
        self.num_lines = text.count("\n")
        sys.stderr.write(text)
        sys.stderr.flush()

    def _erase(self) -> None:
        if self.num_lines:
            sys.stderr.write(f"\x1b[{self.num_lines}A\r\x1b[J")
            sys.stderr.flush()
            self.num_lines = 0

    def _release(self) -> None:
        """What is held goes where the program wrote it."""
        if self.held:
            show_output(self.shown[0] if self.shown else Source(0), self.held)
            self.held = b""

    def _on_step(self, event: records.Step) -> None:
        """The panel shows it."""

    def _line(self, text: str) -> None:
        self._erase()
        if not self.is_at_start:
            sys.stderr.write("\n")
            self.is_at_start = True
        super()._line(text)


class HostsProgramView(ProgramView):
    """Follows a program on several hosts, whose ranks' output comes as events."""

    def __init__(self, shown_of: Callable[[Plan], tuple[Source, ...]]) -> None:
        super().__init__()
        self.shown_of = shown_of

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        self.shown = self.shown_of(plan)
        super().plan(plan, run, loaded)

    def event(self, event: Event) -> None:
        if isinstance(event, records.Output):
            source = Source(event.rank or 0, event.stream or STDOUT)
            show_output(source, (event.text or "").encode(errors="surrogateescape"))
        else:
            super().event(event)


class HostsCommandView(HostsProgramView):
    """Follows a command that runs once on each of several hosts; what they print comes as events."""

    def __init__(self) -> None:
        super().__init__(lambda plan: ())

    def end(
        self, outcome: Outcome, run: RunDir, explained: Report | None, report_path: Path | None = None, again: str = ""
    ) -> None:
        if outcome.failure is not None:
            failure(outcome.failure, explained)
        elif outcome.exit_code != EXIT_OK:
            self._line(Message("stopped; every host's output is in {folder}", folder=run.path / "nodes"))


class OutputEventsView(JsonView):
    """Prints the output of a program's ranks as events too, for the launcher that started this one on another machine."""

    def __init__(self, shown: tuple[Source, ...]) -> None:
        super().__init__()
        self.shown = shown

    def output(self, plan: Plan, run: RunDir) -> Output:
        assert plan.program is not None
        return Output(run, self.shown, role=plan.program.role, write=output_event)
