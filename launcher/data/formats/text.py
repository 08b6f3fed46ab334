"""Plain text, for continued pretraining: `{"text": …}`, or a line of a text file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from launcher.data.formats.base import Columns, Conversation, Row, filled_text, refuse_media
from launcher.recipe import formats


class Text:
    """A column of texts."""

    interface = formats.INTERFACE
    name = "text"
    keys: Mapping[str, str] = {"text": "the column with the text"}

    def fits(self, row: Row, columns: Columns) -> bool:
        return columns.name("text", "text") in row

    def has_columns(self, row: Row, columns: Columns) -> bool:
        return self.fits(row, columns)

    def reader(self, row: Row, columns: Columns) -> Callable[[Row], Conversation]:
        name = columns.name("text", "text")

        def conversation(row: Row) -> Conversation:
            refuse_media(row)
            return {"text": filled_text(row, name)}

        return conversation

    def answered(self, row: Row, columns: Columns) -> Row:
        return row


TEXT = Text()
