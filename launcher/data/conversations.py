"""Conversations out of rows of any format: each as one JSON text, so that all formats look alike from here on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from launcher.data.formats.base import FIX_ROW, Columns, Conversation, Format, Row, RowError
from launcher.data.problems import Problems
from launcher.data.sources import Source
from launcher.messages import Message
from launcher.recipe import formats
from launcher.recipe.schema import DataSet

COLUMN = "conversation"
"""The column that holds them."""
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def columns_of(spec: DataSet, prompt: str | None) -> Columns:
    return Columns(spec.columns, prompt)


def format_of(row: Row, spec: DataSet, columns: Columns) -> Format:
    """The format of a set by one of its rows. Raises RowError where none fits."""
    if spec.format != formats.AUTO:
        form: Format = formats.TABLE.load(spec.format)
        return form
    known: list[Format] = list(map(formats.TABLE.load, formats.TABLE.built_in))
    for form in known:
        if form.fits(row, columns):
            return form
    for form in known:
        if form.has_columns(row, columns):
            return form
    for name, value in row.items() if len(row) == 1 else ():
        inner = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}
        if any(form.fits(inner, columns) for form in known):
            raise RowError(
                Message("is one object, whose rows are below {name!r}", name=name),
                Message("write that list into a file of its own"),
            )
    names = ", ".join(map(str, list(row)[:12]))
    raise RowError(
        Message("its columns are of no format that is known: {names}", names=names or Message("nothing")),
        Message(
            "name the format in data.format ({known}), and its columns in data.columns, as in {example}",
            known=", ".join(formats.TABLE.names()),
            example="{instruction: question, output: reply}",
        ),
    )


class Converter:
    """Rows of one set to conversations, in the format that its first row has."""

    def __init__(self, source: Source) -> None:
        self._spec = source.spec
        self._columns = columns_of(source.spec, source.prompt)
        self._system = source.spec.system
        self._read: Callable[[Row], Conversation] | None = None
        self.format: str | None = None
        """Known once there was a row."""

    def __call__(self, row: Row) -> str:
        """The conversation of a row, as JSON. Raises RowError."""
        if self._read is None:
            form = format_of(row, self._spec, self._columns)
            self._read, self.format = form.reader(row, self._columns), form.name
        made = self._read(row)
        if self._system is not None and made.get("messages") and made["messages"][0]["role"] != "system":
            made["messages"] = [{"role": "system", "content": self._system}, *made["messages"]]
        return encoded(made)


def encoded(made: Conversation) -> str:
    """As JSON. Raises RowError where it holds what is not text."""
    try:
        text = _ENCODE(made)
        text.encode()
    except UnicodeEncodeError:
        raise RowError(Message("holds half of a surrogate pair, which is not text"), FIX_ROW) from None
    except (TypeError, ValueError, RecursionError) as error:  # bytes or dates, of a Parquet file
        raise RowError(Message("holds a value that is not text: {error}", error=error), FIX_ROW) from None
    return text


def of_rows(source: Source, rows: Iterable[tuple[object, Mapping[str, Any]]], problems: Problems) -> Iterator[str]:
    """The conversations of a set's rows, each of which comes with its place. Rows that are none go to `problems`; a set of
    which no row was known is one problem.
    """
    convert = Converter(source)
    for place, row in rows:
        try:
            yield convert(row)
        except RowError as error:
            problems.add(place, error.what, error.hint)
            if convert.format is None:  # every row would say so
                return
