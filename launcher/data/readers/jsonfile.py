"""JSON: a row a line, or a list of rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.data.encodings import Text
from launcher.data.formats.base import RowError, kind
from launcher.data.readers.base import FIX_LINE, Item
from launcher.messages import Message

_SPACE = re.compile(r"[\s,]*")


class Json:
    endings: tuple[str, ...] = (".json", ".jsonl", ".ndjson")
    is_text = True
    has_lines = True

    def rows(self, file: Text | Path) -> Iterator[Item]:
        assert isinstance(file, Text)
        return _values(file.whole()) if _is_whole(file) else _lines(file)


JSON = Json()


def _is_whole(file: Text) -> bool:
    """Whether rows are not one a line: a list, or an object over several lines."""
    for line in file.lines():
        if text := line.strip():
            return text.startswith("[") or (
                text.startswith("{") and not file.path.name.endswith("l") and not _is_json(text)
            )
    return False


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(file: Text) -> Iterator[Item]:
    for number, line in enumerate(file.lines(), 1):
        if not (line := line.strip()):
            continue
        try:
            yield Item(number, _row(json.loads(line)))
        except ValueError as error:
            yield Item(number, _no_json(error))
        except RecursionError:
            yield Item(number, RowError(Message("not JSON: nested too deeply"), FIX_LINE))


def _row(value: Any) -> dict[str, Any] | RowError:
    if isinstance(value, dict):
        return value
    return RowError(Message("is {kind} and not an object: a row is {{column: value}}", kind=kind(value)), FIX_LINE)


def _no_json(error: ValueError) -> RowError:
    reason = getattr(error, "msg", str(error))
    return RowError(
        Message("not JSON: {reason} (column {column})", reason=reason, column=getattr(error, "colno", "?")), FIX_LINE
    )


def _values(text: str) -> Iterator[Item]:
    """Objects one after the other, in a list or not, each with the line that it begins in."""
    start = len(text) - len(text.lstrip())
    is_list = text[start : start + 1] == "["
    at, line, counted = start + is_list, 1, 0
    decoder, value = json.JSONDecoder(), None
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", counted, at)
        counted = at
        if at >= len(text) or (is_list and text[at] == "]"):
            break
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            problem = error if isinstance(error, ValueError) else ValueError("nested too deeply")
            yield Item(getattr(error, "lineno", line), _no_json(problem))
            return
        yield Item(line, _row(value))
    if is_list and at >= len(text):
        yield Item(line, RowError(Message("the list has no end: ']' is missing"), Message("write or download it anew")))
