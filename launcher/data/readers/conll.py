"""CoNLL: a line has a word and, in its last column, the word's tag; an empty line ends a sentence. Each sentence is a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.data.encodings import Text
from launcher.data.formats.base import RowError
from launcher.data.readers.base import FIX_LINE, Item
from launcher.messages import Message

TOKENS, TAGS = "tokens", "tags"
"""The columns of a row: lists of as many words and tags."""
_BETWEEN_DOCUMENTS = "-DOCSTART-"
_COMMENT = re.compile(r"#\s*[\w.]+\s*=|#\s*$|# id ")
"""`# sent_id = 1` and `# id 7c…`, as CoNLL-U and MultiCoNER have them; `# O` is a word and its tag."""


class Conll:
    endings: tuple[str, ...] = (".conll", ".bio", ".iob", ".iob2")
    is_text = True
    has_lines = True

    def rows(self, file: Text | Path) -> Iterator[Item]:
        assert isinstance(file, Text)
        sentence, first = _Sentence(), 0
        for number, line in enumerate(file.lines(), 1):
            cells = line.split("\t") if "\t" in line else line.split()
            cells = [cell.strip() for cell in cells]
            if not any(cells) or cells[0] == _BETWEEN_DOCUMENTS:
                if sentence:
                    yield Item(first, sentence.row())
                sentence = _Sentence()
            elif sentence or not _COMMENT.match(line):
                first = first if sentence else number
                if problem := sentence.add(cells):
                    yield Item(number, problem)
        if sentence:
            yield Item(first, sentence.row())


class _Sentence:
    def __init__(self) -> None:
        self._words: list[str] = []
        self._tags: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._words)

    def add(self, cells: list[str]) -> RowError | None:
        """A word and its tag; or what is wrong with the line."""
        self._words.append(cells[0])
        if len(cells) < 2 or not cells[0] or not cells[-1]:
            return RowError(
                Message("has a word or a tag alone: a line is a word, a tab or space, and its tag"), FIX_LINE
            )
        self._tags.append(cells[-1])
        return None

    def row(self) -> dict[str, Any]:
        return {TOKENS: self._words, TAGS: self._tags}


CONLL = Conll()
