"""CSV: the first line names the columns. Tabs part them in .tsv and .tab; in .csv it is a comma, or else the tab, semicolon or
bar that the first line has. Every value is text, and nothing stands for a missing one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.data.encodings import Text
from launcher.data.formats.base import RowError
from launcher.data.readers.base import FIX_LINE, Item
from launcher.messages import Message

TABS = frozenset({".tsv", ".tab"})
_LONGEST_FIELD = 1 << 30
"""csv refuses fields above 128 KiB otherwise."""


class Csv:
    endings: tuple[str, ...] = (".csv", *sorted(TABS))
    is_text = True
    has_lines = True

    def rows(self, file: Text | Path) -> Iterator[Item]:
        assert isinstance(file, Text)
        csv.field_size_limit(_LONGEST_FIELD)
        with_tabs = any(suffix.lower() in TABS for suffix in file.path.suffixes)
        reader = csv.reader(file.lines(), delimiter="\t" if with_tabs else _delimiter(file))
        names: list[str] | None = None
        while True:
            begin = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Item(begin, RowError(Message("not CSV: {error}", error=error), FIX_LINE))
                continue
            if not cells:
                continue
            if names is None:
                names = [name.strip() for name in cells]
                continue
            yield Item(begin, _row(names, cells))


CSV = Csv()


def _delimiter(file: Text) -> str:
    first = next((line for line in file.lines() if line.strip()), "")
    return next((one for one in ",\t;|" if one in first), ",")


def _row(names: list[str], cells: list[str]) -> dict[str, Any] | RowError:
    if len(cells) != len(names):
        return RowError(
            Message(
                "has {num_cells} cells, and the first line names {num_names} columns: {names}",
                num_cells=len(cells),
                num_names=len(names),
                names=", ".join(names[:8]),
            ),
            Message("put texts with a separator in them into double quotes, or write the data as JSON lines"),
        )
    return dict(zip(names, cells, strict=True))
