"""events.jsonl, a line each: appended by whoever saw something, read from the start or as it grows."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from launcher import confined, scrub
from launcher.confined import NotPlainError
from launcher.files import json_text, read_json, write_json
from launcher.messages import Message
from launcher.rundir import records
from launcher.rundir.paths import open_append
from launcher.rundir.records import Event, Failure

MAX_LINE = 16 << 20
"""Bytes of one event. A file with a longer line is not one that a run writes."""


def append_event(path: Path, event: Event) -> None:
    """Add one line to events.jsonl, stamped with the wall clock in seconds, secrets hidden. One write, so lines never mix.

    A disk that is full ends no job for want of a line: that goes to stderr.
    """
    line = json_text({"time": round(time.time(), 3), **scrub.value(event.to_json(), for_showing=True)}) + "\n"
    try:
        handle = open_append(path)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except OSError as error:
        print(
            Message("not written to {path}: {problem}: {line}", path=path, problem=error.strerror, line=line),
            end="",
            file=sys.stderr,
            flush=True,
        )


_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
"""Made once: json.loads with an option makes one for each line."""


def events(path: Path, offset: int = 0, findings: records.Findings | None = None) -> Iterator[tuple[int, Event]]:
    """The events in whole lines of events.jsonl from byte `offset`, each with the offset after it. The last line may be
    still being written.

    Args:
        findings: where what cannot be read is noted; events are then made fit for showing too.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        file = os.fdopen(confined.open_read(path), "rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in lines(file):
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            event = _event(line, for_showing=findings is not None)
            if findings is not None:
                findings.add(event)
            if event is not None:
                yield offset, event


def _event(line: bytes, *, for_showing: bool) -> Event | None:
    try:
        value = _DECODER.decode(line.decode("utf-8", "strict" if for_showing else "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return records.event(scrub.value(value, for_showing=True) if for_showing and scrub.is_suspect(line) else value)


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, up to one that is longer than any that a run writes."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            return
        yield line


def forward_events(path: Path, offset: int, on_event: Callable[[Event], None]) -> int:
    """Call `on_event` with each event of events.jsonl since byte `offset`; the offset to go on from."""
    with contextlib.suppress(NotPlainError):
        for end, event in events(path, offset):
            offset = end
            on_event(event)
    return offset


def write_failure(path: Path, failure: Failure) -> None:
    """Write error_<r>.json or failure.json. Raises OSError as `write_text`."""
    write_json(path, failure.to_json())


def read_failure(path: Path) -> Failure | None:
    """The failure in error_<r>.json or failure.json; None where there is none, or nothing that can be read as one."""
    return records.failure(read_json(path))
