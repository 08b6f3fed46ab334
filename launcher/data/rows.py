"""The rows of files on this machine, each with its place; and what is wrong with files and lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launcher.data import encodings
from launcher.data.formats.base import RowError
from launcher.data.problems import Problems
from launcher.data.readers.base import Reader
from launcher.data.sources import Part, Source
from launcher.data.splits import Slice
from launcher.messages import Message


class Placed(NamedTuple):
    """A row and where it is: a file's line or row."""

    file: Path
    number: int
    has_lines: bool
    value: dict[str, Any]

    @property
    def place(self) -> str:
        return place(self.file, self.number, has_lines=self.has_lines)


def place(file: object, number: int, *, has_lines: bool) -> str:
    """chats.jsonl:17, or of a file without lines chats.parquet: row 16."""
    return f"{file}:{number}" if has_lines else Message("{file}: row {number}", file=file, number=number)


def of_files(source: Source, parts: Sequence[Part], problems: Problems, notes: list[str]) -> Iterator[Placed]:
    """The rows of a set's files, in order. What is wrong goes to `problems`, what the user should know to `notes`."""
    for part in parts:
        rows = of_paths(source, part.files, problems, notes)
        yield from rows if part.rows.is_all else _sliced(rows, part.rows)


def _sliced(rows: Iterator[Placed], part: Slice) -> Iterator[Placed]:
    kept = list(rows)
    yield from (kept[number] for number in part.rows(len(kept)))


def of_paths(source: Source, paths: Sequence[Path], problems: Problems, notes: list[str]) -> Iterator[Placed]:
    """All rows of some of a set's files."""
    for path in paths:
        reader = source.reader(path)
        assert reader is not None
        try:
            yield from _of_file(path, reader, problems, notes)
        except RowError as error:
            problems.add(path, error.what, error.hint)


def _of_file(path: Path, reader: Reader, problems: Problems, notes: list[str]) -> Iterator[Placed]:
    file: encodings.Text | Path = path
    if reader.is_text:
        file = encodings.text_of(path)
        notes += encoding_notes(file)
    try:
        for number, value in reader.rows(file):
            if isinstance(value, RowError):
                problems.add(place(path, number, has_lines=reader.has_lines), value.what, value.hint)
            else:
                yield Placed(path, number, reader.has_lines, value)
    except encodings.BROKEN as error:
        raise RowError(Message("cannot be read: {error}", error=error), Message("write or download it anew")) from None


def encoding_notes(file: encodings.Text) -> list[str]:
    """What to say of a file in another encoding than UTF-8."""
    if file.encoding in ("utf-8", "utf-8-sig"):
        return []
    text = Message("{path} is not UTF-8: it was read as {encoding}", path=file.path, encoding=file.encoding.upper())
    return [text]
