"""Plain text: each line that is not blank is a row with the column `text`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launcher.data.encodings import Text
from launcher.data.readers.base import Item


class Lines:
    endings: tuple[str, ...] = (".txt",)
    is_text = True
    has_lines = True

    def rows(self, file: Text | Path) -> Iterator[Item]:
        assert isinstance(file, Text)
        for number, line in enumerate(file.lines(), 1):
            if line.strip():
                yield Item(number, {"text": line.rstrip("\r\n")})


TEXT = Lines()
