"""A format of another package: lines of a play, in which Q asks and A answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from launcher.data.formats.base import Columns, Conversation, Row, RowError, filled_text

SPEAKERS = {"Q": "user", "A": "assistant"}


class Stage:
    interface = 1
    name = "stage"
    keys: Mapping[str, str] = {"lines": "the column with the lines"}

    def fits(self, row: Row, columns: Columns) -> bool:
        return columns.name("lines", "lines") in row

    has_columns = fits

    def reader(self, row: Row, columns: Columns) -> Callable[[Row], Conversation]:
        name = columns.name("lines", "lines")
        return lambda row: {"messages": list(_turns(filled_text(row, name)))}


def _turns(lines: str) -> Iterator[dict[str, str]]:
    for line in lines.splitlines():
        speaker, _, said = line.partition(": ")
        if speaker not in SPEAKERS:
            raise RowError(f"nobody is called {speaker!r}", "begin each line with Q or A")
        yield {"role": SPEAKERS[speaker], "content": said}


STAGE = Stage()
