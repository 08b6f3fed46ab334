"""Rows that are to be answered: conversations that end where an answer begins, out of rows of any format."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from launcher.data.conversations import columns_of, encoded, format_of
from launcher.data.formats.base import FIX_ROW, Columns, Conversation, Format, Row, RowError, filled_text
from launcher.messages import Message
from launcher.recipe import formats
from launcher.recipe.schema import Data, DataSet

ANSWER = "assistant"
_COLUMN = re.compile(r"\{(\w+)\}")


class Questions:
    """Rows of one input to conversations. An answer that a row has is left out."""

    def __init__(
        self, data: Data, *, column: str | None = None, system: str | None = None, is_chat: bool = True
    ) -> None:
        """
        Args:
            data: the recipe's: its format, columns, prompt and system message are those of the rows.
            column: the one with the question, where the user names it.
            system: in the place of the recipe's.
            is_chat: whether a row is said to the model as a user's message; else it is a text that the model goes on with.
        """
        self._spec = DataSet(path=data.path, format=data.format, columns=data.columns)
        self._columns = columns_of(self._spec, data.prompt)
        self._system = data.system if system is None else system
        self._column, self._is_chat = column, is_chat
        self._text = data.text
        self._known: dict[tuple[str, ...], Callable[[Row], Conversation]] = {}
        """Readers by the columns that rows have."""

    @property
    def text_column(self) -> str:
        """What a line of plain text is the column of: the one that `data.prompt` names, where it names one."""
        names = set(_COLUMN.findall(self._columns.prompt or ""))
        return names.pop() if len(names) == 1 else self._column or self._text

    def __call__(self, row: Row) -> str:
        """The conversation of a row, or `{"text": …}`, as JSON. Raises RowError."""
        made = self._conversation(row)
        if "text" in made:
            made = {"messages": [{"role": "user", "content": made["text"]}]}
        messages = list(made["messages"])
        while messages and messages[-1]["role"] == ANSWER:
            messages.pop()
        if not messages or messages[-1]["role"] == "system":
            raise RowError(Message("asks nothing"), Message("a row ends with a message of the user, or with an answer"))
        if not self._is_chat:
            return encoded(self._plain(messages))
        if self._system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self._system})
        return encoded({**made, "messages": messages})

    def _conversation(self, row: Row) -> Conversation:
        if self._column is not None:
            return {"text": filled_text(row, self._column)}
        key = tuple(row)
        if key not in self._known:
            form, columns = self._format(row)
            read = form.reader(_answered(form, row, columns), columns)
            self._known[key] = lambda row: read(_answered(form, row, columns))
        return self._known[key](row)

    def _format(self, row: Row) -> tuple[Format, Columns]:
        """As the recipe says, where the row has that format's columns; else the first that fits."""
        known: list[Format] = list(map(formats.TABLE.load, formats.TABLE.built_in))
        if self._spec.format != formats.AUTO:
            known = [format_of(row, self._spec, self._columns), *known]
        texts = Columns({"text": self._text, **self._columns.names}, self._columns.prompt)
        for form in known:
            columns = self._columns if form.name != formats.TEXT else texts
            if form.fits(_answered(form, row, columns), columns):
                return form, columns
        for form in known:
            if form.has_columns(row, self._columns):
                return form, self._columns
        raise RowError(
            Message("has no prompt; there is {names}", names=", ".join(map(repr, list(row)[:8])) or Message("nothing")),
            Message("name the column with the prompt: --text NAME"),
        )

    def _plain(self, messages: list[dict[str, Any]]) -> Conversation:
        if len(messages) > 1:
            raise RowError(Message("is a conversation of several messages, which --no-chat cannot go on with"), FIX_ROW)
        return {"text": messages[0]["content"]}


def _answered(form: Format, row: Row, columns: Columns) -> Row:
    """As the format does it; one of another package may have no column for an answer."""
    answered: Callable[[Row, Columns], Row] | None = getattr(form, "answered", None)
    return answered(row, columns) if answered is not None else row
