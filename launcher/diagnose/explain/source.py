"""A log as it is read: whole, or its head and tail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES, TAIL_BYTES = 8 << 20, 16 << 20
"""Of a huge log the beginning (where the first error is) and the end (where the last one is) are read."""


@dataclass(frozen=True)
class Source:
    """One log and what is known of where it was written."""

    name: str
    text: str
    rank: int | None = None
    host: str | None = None
    card: int | None = None
    time_s: float | None = None
    """When the rank failed, where a record says so."""
    clock_s: float | None = None
    """The same on the host's monotonic clock, which orders the ranks of one host exactly."""


def read_capped(path: Path) -> str:
    """A file's text; of a huge one its beginning and its end. Whatever cannot be read is an empty text."""
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            if size <= HEAD_BYTES + TAIL_BYTES:
                data = f.read(HEAD_BYTES + TAIL_BYTES)
            else:
                head = f.read(HEAD_BYTES)
                f.seek(size - TAIL_BYTES)
                data = head + b"\n" + f.read(TAIL_BYTES)
    except OSError:
        return ""
    return data.decode("utf-8", errors="replace")
