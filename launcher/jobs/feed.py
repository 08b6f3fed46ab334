"""A stream of texts through the ranks of a prediction: lines in, chunks to the ranks, answers back, lines out in order.

Constant memory: no more than CHUNKS_A_RANK chunks a rank are under way, and nothing more is read until one comes back.
No call here blocks, so that one loop can follow the agent and both ends of a pipe.
"""

from __future__ import annotations

import codecs
import itertools
import json
import os
import select
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.files import json_text, write_text
from launcher.jobs.rows import MAX_LINE_BYTES, NUM_NAMED, Bad, Format, Reader, Row, Texts, guess, parse
from launcher.messages import Message, plural
from launcher.recipe.tasks.table import Task
from launcher.rundir.chunks import REFUSED, Chunks

BATCHES_A_CHUNK = 16
"""Rows are sorted by length within a chunk, so that a batch pads little."""
WRITTEN_A_CHUNK = 4
"""Batches where texts are written, which takes long: so a file of few rows keeps many ranks at work."""
CHUNKS_A_RANK = 3
IDLE_S = 0.2
"""How long rows wait for others to fill their chunk when the input pauses."""
READ_BYTES = 1 << 16


PIPE_BYTES = 4096
"""What POSIX lets a pipe take whole once it is writable."""


ITEMS_A_READ = 256


class Source(Protocol):
    """Where lines come from."""

    is_over: bool
    """Whether there are no more."""
    pauses: bool
    """Whether the next may be long in coming, so that those that are there are not to wait for it."""

    def read(self) -> list[tuple[int, bytes | Bad]]:
        """Those that are there now, each with its number, or what is wrong with one."""


class Items:
    """Rows of a file that something else reads."""

    def __init__(self, items: Iterator[tuple[int, bytes | Bad]]) -> None:
        self._items = items
        self.is_over = self.pauses = False

    def read(self) -> list[tuple[int, bytes | Bad]]:
        items = list(itertools.islice(self._items, ITEMS_A_READ))
        self.is_over = not items
        return items


class Lines:
    """Lines of a file or a pipe, as they come."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        # A file is always ready, and epoll and select on some systems refuse it.
        self._is_file = stat.S_ISREG(os.fstat(handle).st_mode)
        self.pauses = not self._is_file
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self.is_over = False
        self.number = 0

    def read(self) -> list[tuple[int, bytes | Bad]]:
        """The lines that are there now, each with its number; none where the other end is not ready."""
        if self.is_over or not (self._is_file or select.select([self._handle], [], [], 0)[0]):
            return []
        try:
            chunk = os.read(self._handle, READ_BYTES)
        except OSError as error:
            raise LaunchError(
                "the input cannot be read: {problem}", hint="name a readable file with --input", problem=error.strerror
            ) from None
        self.is_over = not chunk
        *whole, rest = chunk.split(b"\n")
        if self.is_over and self._partial_bytes:
            whole = [b""]  # the last line has no end
        out: list[tuple[int, bytes | Bad]] = []
        for piece in whole:
            self.number += 1
            out.append((self.number, b"".join([*self._partial, piece]).removesuffix(b"\r")))
            self._partial, self._partial_bytes = [], 0
        self._partial_bytes += len(rest)
        if rest and self._partial_bytes - len(rest) <= MAX_LINE_BYTES:  # of a longer one the rest is not kept
            self._partial.append(rest)
        return out


@dataclass
class Feed:
    """Everything under way between the two ends. Call `step` until the ranks are done, then `finish`."""

    lines: Source
    out: int
    """Where answers are written: a file descriptor."""
    chunks: Chunks
    name: str
    """Of the input, for messages."""
    task: Task
    """Which knows what the ranks' answers say."""
    kept: Path | None = None
    """The file of answers that stays where a line ends the reading; None where they are not in a file of ours."""
    label_names: Sequence[str] = ()
    """Known once the ranks' preparation is done; nothing comes back before."""
    form: Format | None = None
    reader: Reader = field(default_factory=lambda: Texts("text"))
    keep: bool = False
    skip_bad: bool = False
    chunk_rows: int = 128
    max_chunks: int = CHUNKS_A_RANK
    num_rows: int = 0
    num_bad: int = 0
    num_unscored: int = 0
    """Texts whose scores are not finite numbers."""
    unscored: list[int] = field(default_factory=list)
    """The first lines of those."""
    bad: list[Bad] = field(default_factory=list)
    """Those not reported yet."""
    error: Bad | None = None
    """The line that ended the reading."""
    warning: str = ""
    """What the user should know about what the input was taken for; not shown yet."""
    _open: list[Row] = field(default_factory=list)
    _opened_s: float = 0.0
    _sent: dict[int, list[Row]] = field(default_factory=dict)
    _next: int = 0
    _read: int = 0
    _is_ended: bool = False
    _is_refused: bool = False
    """Whether a rank refused a row, and that ends it."""
    _ahead: list[tuple[int, bytes | Bad]] = field(default_factory=list)
    _blank: list[tuple[int, bytes | Bad]] = field(default_factory=list)
    """Empty lines before the first that tells the format."""
    _pending: bytearray = field(default_factory=bytearray)

    def step(self) -> bool:
        """Move what can be moved without waiting; whether anything moved.

        Raises:
            BrokenPipeError: nobody reads the answers any more.
            LaunchError: the input cannot be read, or the answers cannot be written.
        """
        moved = self._take_in()
        moved = self._collect() or moved
        return self._write() or moved

    def finish(self) -> None:
        """After the ranks are done: what is left, to its end."""
        while self._collect() or self._pending:
            if not self._write():
                time.sleep(IDLE_S / 20)

    # -- in -------------------------------------------------------------------------------------------------------

    def _take_in(self) -> bool:
        if self._is_ended:
            return False
        moved = False
        while len(self._sent) < self.max_chunks:
            rows = self._rows()
            if rows:
                moved = True
            now = time.monotonic()
            if rows and not self._open:
                self._opened_s = now
            self._open += rows
            is_over = self.error is not None or (self.lines.is_over and not self._ahead)
            # Only then: which rows are computed together follows from a file alone, and not from how fast it is read.
            is_late = self.lines.pauses and bool(self._open) and not rows and now - self._opened_s > IDLE_S
            if len(self._open) >= self.chunk_rows or (self._open and (is_over or is_late)):
                self._send()
                moved = True
            elif is_over:
                self.chunks.end()
                self._is_ended = True
                return True
            elif not rows and not self._ahead:
                break
        return moved

    def _rows(self) -> list[Row]:
        """As many rows as the open chunk has room for, of those that are there."""
        if not self._ahead and self.error is None:
            self._ahead = self.lines.read()
        rows: list[Row] = []
        while self._ahead and self.error is None and len(self._open) + len(rows) < self.chunk_rows:
            number, raw = self._ahead.pop(0)
            if self.form is None and isinstance(raw, bytes):
                if not raw.strip():
                    self._blank.append((number, raw))
                    continue
                self.form = guess(raw)
                if self.form == "text" and raw.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"[", b"{"):
                    self.warning = "begins as JSON does and is not valid JSON lines, so every line is taken for a text"
                if self.form == "text":  # in which an empty line is a text too
                    self._ahead = [*self._blank, (number, raw), *self._ahead]
                    number, raw = self._ahead.pop(0)
            parsed = raw if isinstance(raw, Bad) else parse(raw, number, self.form or "jsonl", self.reader)
            if isinstance(parsed, Row):
                rows.append(parsed)
            elif isinstance(parsed, Bad):
                self._note_bad(parsed)
        return rows

    def _note_bad(self, bad: Bad) -> None:
        self.num_bad += 1
        if self.skip_bad:
            self.bad.append(bad)
        else:
            self.error = bad

    def _send(self) -> None:
        rows, self._open = self._open, []
        write_text(self.chunks.rows(self._next), json.dumps([row.item for row in rows]))
        self._sent[self._next] = rows
        self._next += 1

    # -- out ------------------------------------------------------------------------------------------------------

    def _collect(self) -> bool:
        """Answers that are there, in the order of the rows. Held back while the reader is slow."""
        moved = False
        while self._read in self._sent and len(self._pending) < READ_BYTES:
            path = self.chunks.answers(self._read)
            try:
                answers = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                break
            rows = self._sent.pop(self._read)
            for line in self._answer_lines(rows, answers):
                self._pending += line
                self.num_rows += 1
            self.chunks.rows(self._read).unlink()
            path.unlink()
            self._read += 1
            moved = True
        return moved

    def _answer_lines(self, rows: list[Row], answers: list[Any]) -> Iterator[bytes]:
        for row, answer in zip(rows, answers, strict=True):
            if self._is_refused:  # those after a row that ended it may be answered already
                return
            if isinstance(answer, dict) and REFUSED in answer:
                self._note_bad(Bad(row.line, answer[REFUSED]))
                self._is_refused = self.error is not None and not self.skip_bad
                continue
            if not self.task.is_answered(answer):
                self._note_unscored(row)
            value = self.task.answer_to(row.item, answer, self.label_names)
            if self.keep:
                value["input"] = row.given
            yield (json_text(value) + "\n").encode("utf-8", "surrogatepass")

    def _note_unscored(self, row: Row) -> None:
        self.num_unscored += 1
        if len(self.unscored) < NUM_NAMED:
            self.unscored.append(row.line)

    def require_all(self) -> None:
        """Raises LaunchError where a line without a text ended the reading."""
        if self.error is not None:
            where = Message(": {path}", path=self.kept) if self.kept is not None and self.num_rows else ""
            raise LaunchError(
                "{feed}:{line}: {reason}",
                hint=plural(
                    "correct that line, or pass over such lines with --skip-bad; the {count} text before it was "
                    "answered{where}",
                    "correct that line, or pass over such lines with --skip-bad; the {count} texts before it were "
                    "answered{where}",
                    count=self.num_rows,
                    where=where,
                ),
                feed=self.name,
                line=self.error.line,
                reason=self.error.reason,
            )

    def require_scores(self) -> None:
        """Fail where a text got no label, once all answers are written.

        Raises:
            LaunchError: with the first lines of those.
        """
        if not self.num_unscored:
            return
        lines = ", ".join(map(str, self.unscored)) + (", …" if self.num_unscored > len(self.unscored) else "")
        raise LaunchError(
            plural(
                "{name}: {count} of {num_rows} texts have scores that are NaN or infinite, so their label is "
                "null: line {lines}",
                "{name}: {count} of {num_rows} texts have scores that are NaN or infinite, so their label is "
                "null: lines {lines}",
                count=self.num_unscored,
                name=self.name,
                num_rows=self.num_rows,
                lines=lines,
            ),
            hint="look at those texts and at the weights for NaN, and try a recipe with parallel.precision: "
            "fp32 (--recipe)",
            exit_code=EXIT_JOB_FAILED,
        )

    def _write(self) -> bool:
        moved = False
        while self._pending and select.select([], [self.out], [], 0)[1]:
            try:
                written = os.write(self.out, self._pending[:PIPE_BYTES])
            except BrokenPipeError:
                raise
            except OSError as error:
                raise LaunchError(
                    "answers cannot be written: {problem}",
                    hint="free some space, or name another --output",
                    exit_code=EXIT_JOB_FAILED,
                    problem=error.strerror,
                ) from None
            del self._pending[:written]
            moved = True
        return moved
