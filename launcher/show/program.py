"""What a person sees of a job that is their own program: its output as it comes, and our words beside it on stderr."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher import records
from launcher.errors import EXIT_OK
from launcher.explain import Report
from launcher.plan import Plan
from launcher.rundir import RunDir
from launcher.show import View, err, failure
from launcher.show.text import Text
from launcher.spec import Loaded
from launcher.supervise import Outcome

READ_BYTES = 1 << 16


class Output:
    """The output of some ranks of a run, read from their logs as it grows, over restarts too."""

    def __init__(self, run: RunDir, ranks: tuple[int, ...], *, prefixed: bool, role: str) -> None:
        self.run = run
        self.ranks = ranks
        self.prefixed = prefixed
        self.role = role
        self.attempt = run.last_attempt + 1
        self.offsets: dict[Path, int] = {}
        self.halves: dict[int, bytes] = {}

    def __call__(self) -> bool:
        """Hand on what there is; whether there was anything."""
        found = self._read_attempt()
        if not found and self.run.attempt(self.attempt + 1).is_dir():
            self.attempt += 1
            found = True
        return found

    def _read_attempt(self) -> bool:
        found = False
        for rank in self.ranks:
            path = self.run.rank_log(self.attempt, rank)
            try:
                with path.open("rb") as file:
                    file.seek(self.offsets.get(path, 0))
                    data = file.read(READ_BYTES)
            except OSError:
                continue
            if data:
                found = True
                self.offsets[path] = self.offsets.get(path, 0) + len(data)
                self._write(self._lines(rank, data) if self.prefixed else data)
        return found

    def _lines(self, rank: int, data: bytes) -> bytes:
        """Whole lines with the rank before each, as torchrun prints them."""
        whole, newline, half = (self.halves.get(rank, b"") + data).rpartition(b"\n")
        self.halves[rank] = half
        head = f"[{self.role}{rank}]:".encode()
        return b"".join(head + line + b"\n" for line in whole.split(b"\n")) if newline else b""

    def finish(self) -> None:
        """Everything that is left, half lines too."""
        while self():
            pass
        for rank, half in self.halves.items():
            if half:
                self._write(f"[{self.role}{rank}]:".encode() + half + b"\n")

    @staticmethod
    def _write(data: bytes) -> None:
        sys.stdout.flush()
        stream = getattr(sys.stdout, "buffer", None)
        if stream is None:
            sys.stdout.write(data.decode(errors="replace"))
        else:
            stream.write(data)
        sys.stdout.flush()


class ProgramView(View):
    """Follows a program: stdout is the program's alone."""

    def __init__(self, shown_ranks: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.shown_ranks = shown_ranks
        """Ranks whose output, and so whose traceback, is on the screen already."""

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        assert plan.program is not None
        self.run = run
        where = f"{plan.nproc_per_node} x {plan.device}" + (f" ({plan.chip})" if plan.chip else "")
        nodes = f" on each of {plan.num_nodes} nodes ({plan.nodes_reason})" if plan.num_nodes > 1 else ""
        self._line(f"ranks          {where}{nodes}")
        self._line(f"each rank runs {plan.program.command}")
        if plan.accelerate is not None:
            shown = " ".join(f"{name}={value}" for name, value in plan.accelerate_env.items())
            self._line(f"accelerate     {plan.accelerate.version} sets {shown}")
        for note in plan.notes:
            self._line(f"note           {note}")
        self._line(f"run directory  {run.path}")

    def end(
        self, outcome: Outcome, run: RunDir, explained: Report | None, report_path: Path | None = None, again: str = ""
    ) -> None:
        if outcome.failure is not None:
            shown = outcome.failure.rank in self.shown_ranks
            failure(outcome.failure.but(traceback="") if shown else outcome.failure, explained)
        elif outcome.exit_code != EXIT_OK:
            self._line(f"stopped; every rank's output is in {run.attempt(max(run.last_attempt, 0))}")
        if again:
            self._line(f"start it again with:\n  {again}")

    def _on_preload(self, event: records.Preload) -> None:
        done = ", ".join(event.modules or ()) or "nothing"
        rest = f"; not more: {event.reason}" if event.reason else ""
        self._line(f"imported once  {done}{rest}")

    def _on_stopping(self, event: records.Stopping) -> None:
        again = "; ^C again ends them at once" if event.signal == "SIGINT" else ""
        self._line(f"stopping       the ranks get {event.signal}{again}")

    def _line(self, text: str) -> None:
        err.print(Text(text))


def is_shown(value: str, local_rank: int) -> bool:
    """Whether a value of --tee or --redirects ("3", or "0:3,1:0") names this local rank."""
    if ":" not in value:
        return value not in ("", "0")
    return any(part.split(":") == [str(local_rank), "3"] for part in value.split(","))
