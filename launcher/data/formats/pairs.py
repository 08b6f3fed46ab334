"""A question and its answer in columns: what the formats alpaca and query-response have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from launcher.data.formats.base import (
    SOME_ANSWER,
    SYSTEM,
    Columns,
    Conversation,
    Row,
    filled_text,
    history,
    optional_text,
    prompted,
    refuse_media,
    system_messages,
)
from launcher.recipe import formats


@dataclass(frozen=True)
class Pairs:
    """A format whose rows are a question, an answer, and what went before."""

    name: str
    ask: str
    """The key of the column with the question."""
    answer: str
    names: tuple[tuple[str, str], ...]
    """Names that the two columns may have, together."""
    more: str | None = None
    """The key of a column that goes on with the question, in a line of its own."""
    more_names: tuple[str, ...] = ()
    """Names that this column may have."""
    interface: int = formats.INTERFACE

    @property
    def keys(self) -> Mapping[str, str]:
        more = {self.more: "the column that goes on with the question"} if self.more else {}
        return {
            self.ask: "the column with the question",
            **more,
            self.answer: "the column with the answer",
            "system": "the column with the system message",
            "history": "the column with earlier turns, as [[question, answer], …]",
        }

    def fits(self, row: Row, columns: Columns) -> bool:
        ask, answer = self._names(row, columns)
        return answer in row and (ask in row or columns.prompt is not None)

    def _names(self, row: Row, columns: Columns) -> tuple[str, str]:
        known = next((pair for pair in self.names if pair[0] in row and pair[1] in row), None)
        if known is None:  # with data.prompt the question may be anywhere
            known = next((pair for pair in self.names if pair[1] in row), None)
        if known is None:  # and a row that is to be answered has no answer
            known = next((pair for pair in self.names if pair[0] in row), self.names[0])
        return columns.names.get(self.ask, known[0]), columns.names.get(self.answer, known[1])

    def has_columns(self, row: Row, columns: Columns) -> bool:
        return self.fits(row, columns)

    def reader(self, row: Row, columns: Columns) -> Callable[[Row], Conversation]:
        ask, answer = self._names(row, columns)
        more = columns.name(self.more, *self.more_names, row=row) if self.more else None
        before, system = columns.name("history", "history"), columns.name("system", *SYSTEM, row=row)

        def question(row: Row) -> str:
            if columns.prompt is not None:
                return prompted(columns.prompt, row)
            rest = optional_text(row, more) if more else ""
            if rest and not optional_text(row, ask):
                return rest
            return f"{filled_text(row, ask)}\n{rest}" if rest else filled_text(row, ask)

        def conversation(row: Row) -> Conversation:
            refuse_media(row)
            messages: list[dict[str, Any]] = [*system_messages(row, system), *history(row, before)]
            messages.append({"role": "user", "content": question(row)})
            messages.append({"role": "assistant", "content": filled_text(row, answer)})
            return {"messages": messages}

        return conversation

    def answered(self, row: Row, columns: Columns) -> Row:
        return {**row, self._names(row, columns)[1]: SOME_ANSWER}
