"""Files whose rows are to be predicted and that are no lines of UTF-8: tables, lists, packed files, and other encodings."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.data import encodings, rows
from launcher.data.formats.base import RowError
from launcher.data.readers import table
from launcher.data.readers.base import Reader
from launcher.data.readers.jsonfile import JSON
from launcher.data.readers.textfile import TEXT
from launcher.data.sources import SHEETS
from launcher.errors import LaunchError
from launcher.jobs.feed import Items, Source
from launcher.jobs.rows import Bad, Format
from launcher.messages import Message

LOOKED_AT_BYTES = 1 << 16


@dataclass(frozen=True)
class Table:
    """Rows as lines of JSON, or lines in UTF-8."""

    lines: Source
    form: Format | None
    notes: tuple[str, ...] = ()


def opened(path: Path, asked: str) -> Table | None:
    """A file that is read here; None for one of lines, and for what is no file. `asked`: --format.

    Raises:
        LaunchError: it holds something else.
    """
    reader = table.of(path) if asked == "auto" else None
    if not path.is_file():
        return None
    if asked == "auto" and table.ending(path.name) in SHEETS:
        raise LaunchError("{path}: is a spreadsheet and no text", hint="save it as CSV in UTF-8", path=path)
    is_list = reader is JSON and _begins_a_list(path)
    is_packed = path.suffix.lower() in encodings.UNPACK
    is_lines = reader in (None, TEXT, JSON) and not is_list and not is_packed
    try:
        if reader is not None and not reader.is_text:
            return Table(Items(_rows(path, reader)), "jsonl")
        if is_lines and _is_utf8(path):
            return None
        file = encodings.text_of(path)
    except RowError as error:
        if is_lines:  # those that are no text are said by their numbers
            return None
        raise LaunchError(Message("{path}: {what}", path=path, what=error.what), hint=error.hint) from None
    if is_lines and file.encoding in ("utf-8", "utf-8-sig"):
        return None
    notes = tuple(rows.encoding_notes(file))
    if reader is None or reader is TEXT:
        return Table(Items(_lines(file)), "text" if reader is TEXT else _asked(asked), notes)
    return Table(Items(_rows(file, reader)), "jsonl", notes)


def _asked(asked: str) -> Format | None:
    return "jsonl" if asked == "jsonl" else "text" if asked == "text" else None


def _begins_a_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"[")


def _is_utf8(path: Path) -> bool:
    """Whether a file begins so."""
    with path.open("rb") as file:
        start = file.read(LOOKED_AT_BYTES)
    if b"\0" in start:
        return False
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(start)
        return True
    return False


def _lines(file: encodings.Text) -> Iterator[tuple[int, bytes | Bad]]:
    for number, line in enumerate(file.lines(), 1):
        yield number, line.rstrip("\r\n").encode()


def _rows(file: Any, reader: Reader) -> Iterator[tuple[int, bytes | Bad]]:
    try:
        for number, value in reader.rows(file):
            if isinstance(value, RowError):
                yield number, Bad(number, value.what)
            else:
                yield number, json.dumps(value, default=str).encode()
    except RowError as error:
        raise LaunchError(Message("{path}: {what}", path=file, what=error.what), hint=error.hint) from None
