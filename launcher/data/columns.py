"""The texts and labels of a file, for tasks that read columns and no conversations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.data import rows, sources
from launcher.data import targets as cells
from launcher.data.formats.base import FIX_ROW, RowError, kind
from launcher.data.problems import Problems
from launcher.data.readers import table
from launcher.data.readers.csvfile import CSV
from launcher.data.sources import Source
from launcher.data.targets import Targets
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.schema import RecipeSpec, Split
from launcher.recipe.tasks.table import ONE_LABEL, TAGS

ID = "id"
"""A column that names a row, which predictions.jsonl repeats."""
_WHOLE = re.compile(r"(-?\d{1,18})\.0+")


@dataclass
class Columns:
    """Values by the columns' names, of the rows in order."""

    values: dict[str, list[Any]]
    numbers: list[int]
    """Where each row is in its file."""
    notes: list[str]


def is_file(recipe: RecipeSpec) -> bool:
    """Whether `data.path` is a file, and no name of a builder or a data set; of words with tags, whether it is any data on this
    machine."""
    if recipe.targets == TAGS:
        return sources.is_here(sources.of_split(recipe.data, recipe.data.train))
    return recipe.data.path not in table.BUILDERS and Path(recipe.data.path).expanduser().is_file()


def read(recipe: RecipeSpec, split: Split, *, most_characters: int | None = None) -> Columns:
    """The columns that the task reads, and the label's where it has labels, of the file that `data.path` names.

    Args:
        recipe: whose data it is.
        split: which rows.
        most_characters: stop once the texts have more than so many.

    Raises:
        LaunchError: the file cannot be read, or has no such split or column; or with every row without a text or a label, up
            to a number.
    """
    source = sources.of_split(recipe.data, split, "data.eval" if split is recipe.data.eval else "data")
    parts = sources.local(source)
    assert parts is not None
    texts, targets = recipe.task.reads(recipe.data), Targets.of(recipe)
    keys = {**texts, **targets.columns}
    problems, out = Problems(), Columns({name: [] for name in keys.values()}, [], [])
    known: dict[str, None] = {}
    characters = 0
    for row in rows.of_files(source, parts, problems, out.notes):
        if not known:
            _require_columns(source, keys, row.value)
            if ID in row.value:
                out.values.setdefault(ID, [])
        known |= dict.fromkeys(row.value)
        _look(texts, targets, row, problems)
        for name, values in out.values.items():
            value = row.value.get(name)
            if targets.kind == TAGS and name != ID:
                value = cells.apart(value)
            values.append(value)
            characters += len(value) if isinstance(value, str) else 1
        out.numbers.append(row.number)
        if most_characters is not None and characters > most_characters:
            break
    problems.raise_if_any()
    if table.of(Path(recipe.data.path)) is CSV and targets.kind == ONE_LABEL:
        for name in targets.columns.values():
            out.values[name] = _whole_numbers(out.values[name])
    return out


def _require_columns(source: Source, keys: Mapping[str, str], first: Mapping[str, Any]) -> None:
    for key, name in keys.items():
        if name not in first:
            known = ", ".join(first)
            raise LaunchError(
                "{where}: no column {name!r}; there is {known}",
                hint="set {key} to one of {known}",
                where=source.where,
                name=name,
                known=known,
                key=key,
            )


def _look(texts: Mapping[str, str], targets: Targets, row: rows.Placed, problems: Problems) -> None:
    if targets.kind == TAGS:
        _look_at_words(texts, targets, row, problems)
        return
    for key, name in texts.items():
        _look_at_text(key, name, row.value.get(name), row, problems)
    for name in targets.columns.values():
        try:
            targets.of_cell(name, row.value.get(name))
        except RowError as error:
            problems.add(row.place, error.what, error.hint)


def _look_at_words(texts: Mapping[str, str], targets: Targets, row: rows.Placed, problems: Problems) -> None:
    (text,), (label,) = texts.values(), targets.columns.values()
    try:
        found, tags = cells.words(text, row.value.get(text)), targets.of_cell(label, row.value.get(label))
    except RowError as error:
        problems.add(row.place, error.what, error.hint)
        return
    if len(found) != len(tags):
        what = Message("has {words} words and {tags} tags", words=len(found), tags=len(tags))
        problems.add(row.place, what, FIX_ROW)


def _look_at_text(key: str, name: str, value: Any, row: rows.Placed, problems: Problems) -> None:
    if value is None:
        problems.add(row.place, Message("{name!r} is empty", name=name), FIX_ROW)
    elif not isinstance(value, str):
        problems.add(
            row.place,
            Message("{name!r} is {kind} and not text", name=name, kind=kind(value)),
            Message("write a text there, in quotes; or name another column as {key}", key=key),
        )


def _whole_numbers(cells: list[Any]) -> list[Any]:
    """Cells such as 4.0 as 4, where all are numbers: data frames write them so where a row of the column was once empty."""
    return [cell.partition(".")[0] for cell in cells] if all(map(_WHOLE.fullmatch, cells)) else cells
