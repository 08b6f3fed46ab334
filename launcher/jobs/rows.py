"""Rows that are to be predicted: how lines of each format are read."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from launcher.data.formats.base import FIX_ROW, RowError
from launcher.data.questions import Questions
from launcher.messages import Message

Format = Literal["jsonl", "text"]


MAX_LINE_BYTES = 16 << 20
NUM_NAMED = 10
"""So many lines without a label are named."""


@dataclass(frozen=True)
class Row:
    """One line of input that can be answered."""

    line: int
    """From 1."""
    item: Any
    """What a rank gets of it, as JSON: a text, several, or an object."""
    given: Any
    """What came with it: the object of a JSON line, or the text itself."""


@dataclass(frozen=True)
class Bad:
    """One line of input that cannot, and why."""

    line: int
    reason: str


class Reader(Protocol):
    """What of a row is for the ranks. Both raise RowError where it cannot be answered."""

    def of_text(self, text: str, line: int) -> Any:
        """Of a line of plain text; None where the line is no row."""

    def of_object(self, value: Mapping[str, Any], line: int) -> Any:
        """Of a JSON object, or a row of a table."""


class Texts:
    """The columns that a task reads: the text of one, the list of several."""

    def __init__(self, *columns: str, may_be_words: bool = False) -> None:
        """`may_be_words`: whether a column may hold a list of words in the place of a text."""
        self._columns = columns
        self._may_be_words = may_be_words

    def of_text(self, text: str, line: int) -> Any:
        if len(self._columns) > 1:
            raise RowError(
                Message("is plain text, and {names} are needed", names=" and ".join(map(repr, self._columns))), FIX_ROW
            )
        return text

    def of_object(self, value: Mapping[str, Any], line: int) -> Any:
        texts = [self._checked(value, column) for column in self._columns]
        return texts[0] if len(texts) == 1 else texts

    def _checked(self, value: Mapping[str, Any], column: str) -> str | list[str]:
        if column not in value:
            fields = ", ".join(map(repr, list(value)[:8])) or "nothing"
            raise RowError(Message("no field {column!r}; there is {place}", column=column, place=fields), FIX_ROW)
        text = value[column]
        if self._may_be_words and isinstance(text, list):
            return [_whole(word, column) for word in text]
        return _whole(text, column)


def _whole(text: Any, column: str) -> str:
    """Raises RowError where a value is no text, or holds what is none."""
    if not isinstance(text, str):
        given = json.dumps(text)[:40]
        raise RowError(Message("the field {column!r} is not text: {dumps}", column=column, dumps=given), FIX_ROW)
    if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        what = Message("the field {column!r} holds half of a surrogate pair, which is not text", column=column)
        raise RowError(what, FIX_ROW)
    return text


class Prompts:
    """Conversations that are to be gone on with, each with its line, by which its sampling is seeded."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def of_text(self, text: str, line: int) -> Any:
        return self.of_object({self._questions.text_column: text}, line) if text.strip() else None

    def of_object(self, value: Mapping[str, Any], line: int) -> Any:
        return {"line": line, "conversation": self._questions(value)}


def parse(raw: bytes, line: int, form: Format, reader: Reader) -> Row | Bad | None:
    """One line without its end; None for an empty line of JSON lines, and of prompts. A text that gets a label may be empty."""
    if len(raw) > MAX_LINE_BYTES:
        return Bad(line, Message("longer than {max_line_bytes} MiB", max_line_bytes=MAX_LINE_BYTES >> 20))
    try:
        text = (raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        return Bad(line, Message("not UTF-8 at byte {start}", start=error.start))
    try:
        if form == "text":
            item = reader.of_text(text, line)
            return None if item is None else Row(line, item, text)
        if not text.strip():
            return None
        value = _object(text)
        return Row(line, reader.of_object(value, line), value)
    except RowError as error:
        return Bad(line, error.what)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RowError(Message("not JSON: {error}", error=error), FIX_ROW) from None
    except RecursionError:
        raise RowError(Message("not JSON: nested too deeply"), FIX_ROW) from None
    if not isinstance(value, dict):
        raise RowError(Message("not a JSON object"), FIX_ROW)
    return value


def guess(first: bytes) -> Format:
    """What a file holds whose name does not tell, by its first line that is not empty."""
    try:
        return "jsonl" if isinstance(json.loads(first.removeprefix(codecs.BOM_UTF8)), dict) else "text"
    except (ValueError, RecursionError):
        return "text"
