"""A file that `data.path` names itself, for tasks that read columns: every format and encoding that conversations are read in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from launcher.data import columns, encodings, rows
from launcher.data.readers import table
from launcher.errors import LaunchError
from launcher.recipe.schema import RecipeSpec, Split

if TYPE_CHECKING:
    from datasets import Dataset

NUMBER = "row of the file"
"""A column beside those of the data: where each row is."""


def read(recipe: RecipeSpec, split: Split) -> Dataset:
    """The columns that the task reads, and the label's where it has labels.

    Raises:
        LaunchError: the file cannot be read, has no such split or column, or rows without a text or a label.
    """
    from datasets import Dataset

    content = columns.read(recipe, split)
    arrays = {name: _array(recipe.data.path, name, values) for name, values in content.values.items()}
    return Dataset(pa.table({**arrays, NUMBER: pa.array(content.numbers, pa.int64())}))


def _array(where: str, name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.large_string() if all(isinstance(value, str) for value in values) else None)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
        if name == columns.ID:  # which nothing is computed from
            return pa.array([None if value is None else str(value) for value in values], pa.large_string())
        raise LaunchError(
            "{where}: column {name!r} has values of several kinds, such as numbers beside texts",
            hint="write all of them alike",
            where=where,
            name=name,
        ) from None


def notes(recipe: RecipeSpec) -> list[str]:
    """What the user should know about how the file was read."""
    path = Path(recipe.data.path).expanduser()
    reader = table.of(path)
    return rows.encoding_notes(encodings.text_of(path)) if reader is not None and reader.is_text else []


def place(recipe: RecipeSpec, chosen: Dataset, row: int) -> str:
    """Where a row of a selection is in its file."""
    reader = table.of(Path(recipe.data.path))
    return rows.place(recipe.data.path, chosen[row][NUMBER], has_lines=reader is not None and reader.has_lines)
