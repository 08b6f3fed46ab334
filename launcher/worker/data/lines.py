"""Where a row is in its file, for messages."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.data.encodings import UNPACK
from launcher.data.readers.csvfile import TABS
from launcher.messages import Message
from launcher.recipe.schema import RecipeSpec, Split
from launcher.worker.data import plain
from launcher.worker.data.sources import local_files, where

if TYPE_CHECKING:
    from datasets import Dataset


def place(recipe: RecipeSpec, split: Split, rows: Dataset, row: int, column: str) -> tuple[str, str | None]:
    """Where a row is: file, line and number where that is known; and what a CSV file has there in a column."""
    if plain.NUMBER in rows.column_names:
        return plain.place(recipe, rows, row), None
    if rows._indices is not None:
        row = rows._indices.column(0)[row].as_py()
    row_text = Message("row {row} of split {split!r}", row=row, split=split.split)
    files = local_files(recipe, split)
    if len(files) != 1 or "[" in split.split or files[0].suffix in UNPACK:
        return f"{where(recipe, split)}: {row_text}", None
    try:
        line, written = next(
            (entry for i, entry in enumerate(_lines(recipe, files[0], column)) if i == row), (None, None)
        )
    except (OSError, ValueError, csv.Error):
        line = written = None
    return (f"{files[0]}:{line}: {row_text}" if line else f"{files[0]}: {row_text}"), (written or "").strip() or None


def _lines(recipe: RecipeSpec, path: Path, column: str) -> Iterator[tuple[int, str | None]]:
    """The line that each row of a file begins in, and what a CSV file has in a column."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if recipe.data.path == "json":
            if not file.read(1024).lstrip().startswith("["):
                file.seek(0)
                yield from ((n, None) for n, line in enumerate(file, 1) if line.strip())
            return
        if recipe.data.path != "csv":
            return
        reader = csv.reader(file, delimiter="\t" if path.suffix in TABS else ",")
        at, begin = None, 1
        for cells in reader:
            if cells and at is None:
                at = cells.index(column) if column in cells else -1
            elif cells and at is not None:
                yield begin, cells[at] if 0 <= at < len(cells) else None
            begin = reader.line_num + 1
