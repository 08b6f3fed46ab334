"""What reads a kind of file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from launcher.data.encodings import Text
from launcher.data.formats.base import RowError
from launcher.messages import Message


class Item(NamedTuple):
    """One row of a file, or what is wrong in its place."""

    number: int
    """Of its line, from 1; of the row, from 0, in files without lines."""
    value: dict[str, Any] | RowError


class Reader(Protocol):
    """Reads files with certain endings. One file in this folder, and one row in the table."""

    endings: tuple[str, ...]
    is_text: bool
    """Whether `rows` takes the file as text, unpacked and in its encoding; else its path."""
    has_lines: bool
    """Whether an Item's number is of a line."""

    def rows(self, file: Text | Path) -> Iterator[Item]:
        """Its rows in order. Raises RowError where the file as a whole cannot be read."""


FIX_FILE = Message("write or download it anew")
FIX_LINE = Message("correct these lines, or remove them")
