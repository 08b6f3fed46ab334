"""The labels that files on this machine hold, in the order of their numbers, for a recipe that lists none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.data import rows, sources
from launcher.data.formats.base import RowError
from launcher.data.problems import Problems
from launcher.data.readers import columnar
from launcher.data.sources import Source
from launcher.data.targets import Targets
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.schema import Data
from launcher.recipe.tasks.base import LABEL
from launcher.recipe.tasks.table import ONE_LABEL, TAGS

UNLABELLED = (-1, -100)
"""What data sets on the hub write where a row has no label, and what torch's loss leaves out."""
MOST = 1000
"""More labels than this are taken for a column of something else."""
_NUMBER = re.compile(r"-?\d{1,18}(?:\.0+)?")


ONE = Targets(ONE_LABEL, {LABEL: "label"})
"""A row has one label, in a column of that name."""


def first(data: Data, column: str) -> Any:
    """What the first row that is trained on has in a column; None where that is not known, whatever the reason."""
    problems = Problems()
    try:
        for source in sources.train(data):
            parts = sources.local(source) or ()
            paths = [path for part in parts for path in part.files]
            for row in rows.of_paths(source, paths, problems, []):
                return row.value.get(column)
    except (LaunchError, RowError, ImportError, OSError):  # said by who reads the rows
        return None
    return None


def names(data: Data, targets: Targets = ONE) -> tuple[str, ...] | None:
    """Every different label of the rows that are trained on and evaluated: numbers in their order, and texts in theirs. Numbers
    that a data set itself has names for keep those. None where the rows are not files on this machine.

    Args:
        data: the recipe's.
        targets: how its labels are read, out of one column.

    Raises:
        LaunchError: there are fewer than two labels, or the column holds something else.
    """
    wanted = [*sources.train(data), *sources.evaluation(data).values()]
    label = next(iter(targets.columns.values())) if targets.kind == TAGS else data.label
    values: dict[Any, None] = {}
    for source in wanted:
        parts = sources.local(source)
        if parts is None:
            return None
        paths = [path for part in parts for path in part.files]
        try:
            if (known := _class_names(source, paths, label)) is not None:
                return known
            values |= _values(source, paths, label, targets)
        except RowError as error:
            raise LaunchError(
                Message("{where}: {what}", where=source.where, what=error.what), hint=error.hint
            ) from None
        if len(values) > MOST:
            raise LaunchError(
                "{where}: column {column!r} has more than {most:,} different values",
                hint="check that data.label is the column with the label; or set model.num_labels",
                where=source.where,
                column=label,
                most=MOST,
            )
    return _named(wanted[0], label, values)


def _class_names(source: Source, paths: Iterable[Path], column: str) -> tuple[str, ...] | None:
    columns = (path for path in paths if source.reader(path) in (columnar.PARQUET, columnar.ARROW))
    return next((named for path in columns if (named := columnar.class_names(path, column)) is not None), None)


def _values(source: Source, paths: list[Path], column: str, targets: Targets) -> dict[Any, None]:
    """What a column holds, but for rows without a label. What is wrong with it is said with its place by who reads the rows."""
    problems, values, has_column, has_rows = Problems(), dict[Any, None](), False, False
    for path in paths:
        reader = source.reader(path)
        if isinstance(reader, columnar.Columnar) and targets.kind == ONE_LABEL:
            has_column = True
            values |= dict.fromkeys(filter(_is_label, reader.values(path, column)))
            continue
        for row in rows.of_paths(source, [path], problems, []):
            has_rows = True
            if column not in row.value:
                continue
            has_column = True
            try:
                values |= _labels(row.value[column], column, targets)
            except RowError as error:
                problems.add(row.place, error.what, error.hint)
    problems.raise_if_any()
    if not has_column and not has_rows:
        raise LaunchError("{where}: has no rows", hint="name another file or split", where=source.where)
    if not has_column:
        raise LaunchError(
            "{where}: no column {column!r}, and nothing else says how many labels there are",
            hint="name the column with the label as data.label, or set model.num_labels",
            where=source.where,
            column=column,
        )
    return values


def _labels(value: Any, column: str, targets: Targets) -> dict[Any, None]:
    if targets.kind == ONE_LABEL and not _is_label(value):
        return {}
    cell = targets.of_cell(column, value)
    return dict.fromkeys(cell if isinstance(cell, list) else [cell])


def _is_label(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and value not in UNLABELLED and value == value  # a NaN is not


def _named(source: Source, column: str, values: Iterable[Any]) -> tuple[str, ...]:
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    if all(map(_NUMBER.fullmatch, texts)):  # data frames write 4 as 4.0 where a row of the column was once empty
        numbers = {int(text.partition(".")[0]) for text in texts} - set(UNLABELLED)
        names = tuple(map(str, sorted(numbers)))
    elif wrong := next((value for value in values if isinstance(value, float)), None):
        raise LaunchError(
            "{where}: column {column!r} holds {value}, which is no whole number",
            hint="values are learnt with model.problem_type=regression; as classes they are whole numbers from 0",
            where=source.where,
            column=column,
            value=wrong,
        )
    else:
        names = tuple(sorted(set(texts)))
    if len(names) < 2:
        raise LaunchError(
            Message(
                "{where}: column {column!r} has the label {label} alone",
                where=source.where,
                column=column,
                label=names[0],
            )
            if names
            else Message("{where}: column {column!r} is empty in every row", where=source.where, column=column),
            hint="name data with two labels or more, or the column that holds them as data.label",
        )
    return names
