"""Rows that are to be predicted: how lines of each format are read."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any, Literal

from launcher.messages import Message

Format = Literal["jsonl", "text"]


MAX_LINE_BYTES = 16 << 20
NUM_NAMED = 10
"""So many lines without a label are named."""


@dataclass(frozen=True)
class Row:
    """One line of input that is a text."""

    line: int
    """From 1."""
    text: str
    given: Any
    """What came with it: the object of a JSON line, or the text itself."""


@dataclass(frozen=True)
class Bad:
    """One line of input that is none, and why."""

    line: int
    reason: str


def parse(raw: bytes, line: int, form: Format, column: str) -> Row | Bad | None:
    """One line without its end; None for an empty line of JSON lines. A line of plain text may be empty."""
    if len(raw) > MAX_LINE_BYTES:
        return Bad(line, Message("longer than {max_line_bytes} MiB", max_line_bytes=MAX_LINE_BYTES >> 20))
    try:
        text = (raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        return Bad(line, Message("not UTF-8 at byte {start}", start=error.start))
    if form == "text":
        return Row(line, text, text)
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        return Bad(line, Message("not JSON: {error}", error=error))
    except RecursionError:
        return Bad(line, Message("not JSON: nested too deeply"))
    if not isinstance(value, dict):
        return Bad(line, Message("not a JSON object"))
    if column not in value:
        fields = ", ".join(map(repr, list(value)[:8])) or "nothing"
        return Bad(line, Message("no field {column!r}; there is {place}", column=column, place=fields))
    if not isinstance(value[column], str):
        return Bad(
            line,
            Message("the field {column!r} is not text: {dumps}", column=column, dumps=json.dumps(value[column])[:40]),
        )
    if not value[column].isprintable() and any("\ud800" <= c <= "\udfff" for c in value[column]):
        return Bad(
            line, Message("the field {column!r} holds half of a surrogate pair, which is not text", column=column)
        )
    return Row(line, value[column], value)


def guess(first: bytes) -> Format:
    """What a file holds whose name does not tell, by its first line that is not empty."""
    try:
        return "jsonl" if isinstance(json.loads(first.removeprefix(codecs.BOM_UTF8)), dict) else "text"
    except (ValueError, RecursionError):
        return "text"
