"""A prediction while it runs, and its end: on standard error, since standard output may carry the answers."""

from __future__ import annotations

from launcher.diagnose.explain.verdicts import Report
from launcher.jobs.rows import Bad
from launcher.messages import Message, plural, translated
from launcher.rundir import records
from launcher.rundir.outcome import Outcome
from launcher.rundir.records import Event
from launcher.show.console import err
from launcher.show.run import failure
from launcher.show.text import Text


class PredictView:
    """Says what a person should know, and nothing else."""

    def __init__(self, *, is_stream: bool) -> None:
        self.is_stream = is_stream
        """Whether the input is standard input."""

    def event(self, event: Event) -> None:
        """One event of events.jsonl."""
        if isinstance(event, records.Note):
            err.print(Text(translated(event.text or "")))
        elif isinstance(event, records.Restart):
            err.print(
                Text(
                    Message(
                        "restart {attempt} of {of_restarts}: {what}",
                        attempt=event.attempt,
                        of_restarts=event.of_restarts,
                        what=translated(event.what or ""),
                    )
                )
            )

    def warning(self, name: str, text: str) -> None:
        """What the input was taken for, where that may be wrong."""
        err.print(Text(Message("{name}: {text}", name=name, text=text)))

    def bad_line(self, name: str, bad: Bad) -> None:
        """One line of the input that is passed over."""
        err.print(Text(Message("{name}:{line}: {reason}", name=name, line=bad.line, reason=bad.reason)))

    def end(self, outcome: Outcome, explained: Report | None, again: str) -> None:
        """The failure of the ranks, and how the prediction is started again."""
        if outcome.failure is not None:
            failure(outcome.failure, explained)
        if again:
            with_input = Message("start it again, with the same input, with:\n  {command}", command=again)
            err.print(
                Text(with_input if self.is_stream else Message("start it again with:\n  {command}", command=again))
            )

    def answered(self, num_rows: int, num_bad: int, *, writes: bool) -> None:
        """How many texts were labelled, or answered."""
        bad = plural("; {count} line passed over", "; {count} lines passed over", count=num_bad) if num_bad else ""
        labelled = plural("{count:,} text labelled{bad}", "{count:,} texts labelled{bad}", count=num_rows, bad=bad)
        written = plural("{count:,} row answered{bad}", "{count:,} rows answered{bad}", count=num_rows, bad=bad)
        err.print(Text(written if writes else labelled))
