"""A file that `data.path` names itself, for tasks that read columns: every format and encoding that conversations are read in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from launcher.data import encodings, rows, sources
from launcher.data.formats.base import kind
from launcher.data.problems import Problems
from launcher.data.readers import table
from launcher.data.readers.csvfile import CSV
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.schema import RecipeSpec, Split

if TYPE_CHECKING:
    from datasets import Dataset

NUMBER = "row of the file"
"""A column beside those of the data: where each row is."""
_WHOLE = re.compile(r"(-?\d{1,18})\.0+")


def is_file(recipe: RecipeSpec) -> bool:
    """Whether `data.path` is a file, and no name of a builder or a data set."""
    return recipe.data.path not in table.BUILDERS and Path(recipe.data.path).expanduser().is_file()


def read(recipe: RecipeSpec, split: Split) -> Dataset:
    """The columns that the task reads, and the label's where it has labels.

    Raises:
        LaunchError: the file cannot be read, has no such split or column, or holds something else than texts there.
    """
    from datasets import Dataset

    source = sources.of_split(recipe.data, split, "data.eval" if split is recipe.data.eval else "data")
    parts = sources.local(source)
    assert parts is not None
    label = {"data.label": recipe.data.label} if recipe.task.has_labels else {}
    keys = {**recipe.task.reads(recipe.data), **label}
    problems = Problems()
    columns: dict[str, list[Any]] = {name: [] for name in (*keys.values(), NUMBER)}
    known: dict[str, None] = {}
    for row in rows.of_files(source, parts, problems, []):
        known |= dict.fromkeys(row.value)
        for key, name in keys.items():
            value = row.value.get(name)
            if key != "data.label" and value is not None and not isinstance(value, str):
                problems.add(
                    row.place,
                    Message("{name!r} is {kind} and not text", name=name, kind=kind(value)),
                    Message("write a text there, in quotes; or name another column as {key}", key=key),
                )
            columns[name].append(value)
        columns[NUMBER].append(row.number)
    problems.raise_if_any()
    for key, name in keys.items():
        if name not in known and columns[NUMBER]:
            raise LaunchError(
                "{where}: no column {name!r}; there is {known}",
                hint="set {key} to one of {known}",
                where=source.where,
                name=name,
                known=", ".join(known),
                key=key,
            )
    if table.of(Path(recipe.data.path)) is CSV and label:
        columns[recipe.data.label] = _whole_numbers(columns[recipe.data.label])
    return Dataset(pa.table({name: _array(source.where, name, values) for name, values in columns.items()}))


def _whole_numbers(cells: list[str]) -> list[str]:
    """Cells such as 4.0 as 4, where all are numbers: data frames write them so where a row of the column was once empty."""
    if all(not cell or _WHOLE.fullmatch(cell) for cell in cells):
        return [cell.partition(".")[0] for cell in cells]
    return cells


def _array(where: str, name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(
            values, pa.large_string() if all(value is None or isinstance(value, str) for value in values) else None
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
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
