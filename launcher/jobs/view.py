"""What a job needs of a screen. A command picks one of launcher.show; jobs see no more of it than this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from launcher.clusters.submission import Commands, Job
from launcher.diagnose.explain.verdicts import Report
from launcher.jobs.rows import Bad
from launcher.planning.plan import Plan
from launcher.recipe.load import Loaded
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event


class Output(Protocol):
    """Shows what ranks print, as their logs grow."""

    def __call__(self) -> bool:
        """Show what there is, without waiting for more; whether there was anything."""

    def finish(self) -> None:
        """Show everything that is left."""


class View(Protocol):
    """Follows one job. It is entered once the job is about to start, and left before `end`."""

    def __enter__(self) -> object: ...

    def __exit__(self, *error: object) -> None: ...

    def plan(self, plan: Plan, run: RunDir, loaded: Loaded) -> None:
        """What is about to happen."""

    def output(self, plan: Plan, run: RunDir) -> Output | None:
        """Shows the ranks' output from the next attempt on; None where this screen does not."""

    def event(self, event: Event) -> None:
        """One event of events.jsonl."""

    def end(
        self, outcome: Outcome, run: RunDir, explained: Report | None, report_path: Path | None = None, again: str = ""
    ) -> None:
        """How the job ended, what is known about it, and the command that goes on with it."""


class HostsView(View, Protocol):
    """Follows a job on several hosts."""

    def words(self, host: str, line: str) -> None:
        """A line that a host's launcher said besides events."""


class QueueView(View, Protocol):
    """Follows a job in a cluster's queue."""

    def warning(self, name: str, text: str) -> None:
        """What may be wrong with the job, and nobody can tell before it runs."""

    def would_submit(self, text: str, plan: Plan) -> None:
        """The script or manifest that was not submitted."""

    def submitted(self, job: str, output: str, script: str, commands: Commands) -> None:
        """Where a submitted job can be watched, and how it is ended."""

    def created(self, made: Sequence[str], job: str, run_dir: str, text: str, commands: Commands) -> None:
        """What a cluster made of a manifest, an object a line."""

    def job(self, job: Job) -> None:
        """A change of a job in the queue."""

    def detached(self, job: str, commands: Commands) -> None:
        """Nobody follows any longer; the job goes on."""


class PredictView(Protocol):
    """Follows a prediction, while standard output may carry its answers."""

    def event(self, event: Event) -> None:
        """One event of events.jsonl."""

    def warning(self, name: str, text: str) -> None:
        """What the input was taken for, where that may be wrong."""

    def bad_line(self, name: str, bad: Bad) -> None:
        """One line of the input that is passed over."""

    def end(self, outcome: Outcome, explained: Report | None, again: str) -> None:
        """How the ranks ended, where that is not well, what is known about it, and the command that starts them again."""
