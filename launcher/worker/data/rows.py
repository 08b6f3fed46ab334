"""The rows that a recipe's `data:` names, read by datasets; and what is wrong with them, with the file and the row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from launcher.data import columns
from launcher.data import read as reading
from launcher.data.conversations import COLUMN
from launcher.data.readers import columnar
from launcher.data.readers.table import ending
from launcher.data.sources import SHEETS, Source, saved_files
from launcher.data.targets import Targets
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.schema import RecipeSpec, Split
from launcher.recipe.tasks.table import TAGS
from launcher.worker.data import label_values, plain
from launcher.worker.data.file_checks import check_files, no_text
from launcher.worker.data.label_rows import Cells
from launcher.worker.data.label_values import Column
from launcher.worker.data.lines import place
from launcher.worker.data.refusals import no_column, no_rows, not_loaded, other_split
from launcher.worker.data.sources import (
    BUILDERS,
    READER,
    files_of,
    local_files,
    read_options,
    where,
)
from launcher.worker.models import hub

if TYPE_CHECKING:
    from datasets import Dataset


def read(recipe: RecipeSpec, split: Split, *, is_eval: bool = False) -> Dataset:
    """The rows of one split, chosen, with what the task reads of each and a column for the label, where it has labels.

    Raises:
        LaunchError: they cannot be read, or hold no such columns.
    """
    rows = plain.read(recipe, split) if columns.is_file(recipe) else _load(recipe, split)
    if len(rows) == 0:
        raise no_rows(recipe, split)
    reads = recipe.task.reads(recipe.data)
    for key, name in {**reads, **recipe.task.label_columns(recipe.data)}.items():
        if name not in rows.column_names:
            raise no_column(recipe, split, rows, key, name, is_eval)
    if recipe.targets == TAGS:
        _check_words(recipe, rows, split)
    elif recipe.data.text in reads.values():
        for key, name in reads.items():
            _check_text(recipe, rows, split, key, name)
    if split.limit is None:
        return rows
    return rows.shuffle(seed=split.seed).select(range(min(split.limit, len(rows))))


def conversations(recipe: RecipeSpec, *, trains: bool) -> tuple[dict[str, Dataset], list[str]]:
    """The conversations of every split, in one column as JSON, by the splits' names; and what to tell of them.

    Raises:
        LaunchError: rows cannot be read, or some are no conversations: all of them at once, up to a number.
    """
    from datasets import Dataset

    content = reading.read(recipe.data, lambda source: _remote(recipe, source), trains=trains)
    tables = {name: pa.table({COLUMN: pa.array(part, pa.large_string())}) for name, part in content.splits.items()}
    return {name: Dataset(table) for name, table in tables.items()}, content.notes


def _remote(recipe: RecipeSpec, source: Source) -> Iterator[dict[str, Any]]:
    """The rows of a set that datasets loads."""
    spec = source.spec
    update = {key: getattr(spec, key) for key in ("path", "name", "data_files", "data_dir", "revision")}
    one = recipe.model_copy(update={"data": recipe.data.model_copy(update=update)})
    rows = _load(one, Split(split=spec.split))
    for batch in rows.iter(
        columnar.BATCH_ROWS
    ):  # as Python values: datasets keeps lists of unlike objects as JSON texts
        yield from (
            columnar.without_nulls(dict(zip(batch, row, strict=True))) for row in zip(*batch.values(), strict=True)
        )


def content(recipe: RecipeSpec, rows: Dataset) -> list[pa.ChunkedArray]:
    """The columns of the chosen rows that become tokens."""
    return [column(rows, name) for name in recipe.task.reads(recipe.data).values()]


def contents(recipe: RecipeSpec, rows: Dataset) -> list[str]:
    """What each row holds, as a text that is equal for equal rows."""
    names = [*recipe.task.reads(recipe.data).values(), *recipe.task.label_columns(recipe.data).values()]
    columns = [column(rows, name).to_pylist() for name in names]
    return [json.dumps(row, default=str) for row in zip(*columns, strict=True)]


def texts(recipe: RecipeSpec, rows: Dataset) -> pa.ChunkedArray:
    """The texts of the chosen rows; of rows with two, both as one."""
    columns = [column(rows, name).cast(pa.large_string()) for name in recipe.task.reads(recipe.data).values()]
    return (
        columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, pa.scalar("\0", pa.large_string()))
    )


def notes(recipe: RecipeSpec, rows: Dataset, split: Split) -> list[str]:
    """What the user should know about how a split was read."""
    if columns.is_file(recipe):
        return plain.notes(recipe)
    if not read_options(recipe, split):
        return []
    broken = pc.sum(pc.match_substring(texts(recipe, rows), "\n")).as_py()
    if not broken:
        return []
    return [
        Message(
            "{where}: {broken} texts hold line breaks, since quotes are read as in CSV; where a quote is "
            "a plain character, write the data as JSON lines",
            where=where(recipe, split),
            broken=broken,
        )
    ]


def label_column(recipe: RecipeSpec, rows: Dataset, split: Split, *, is_eval: bool) -> Column:
    """The label column of the chosen rows."""
    from datasets import ClassLabel

    name = recipe.data.label
    feature = rows.features[name]
    return Column(
        name=name,
        values=column(rows, name),
        split=split.split,
        where=Message(
            "{where}: split {split!r}: column {name!r}", where=where(recipe, split), split=split.split, name=name
        ),
        class_names=tuple(feature.names) if isinstance(feature, ClassLabel) else None,
        place=lambda row: place(recipe, split, rows, row, name),
        no_labels_hint=other_split(is_eval),
    )


def label_cells(recipe: RecipeSpec, rows: Dataset, split: Split) -> Cells:
    """The label columns of the chosen rows, where a row has any number of labels, or numbers."""
    targets = Targets.of(recipe)
    first = next(iter(targets.columns.values()))
    return Cells(
        {name: column(rows, name) for name in targets.columns.values()},
        targets,
        lambda row: place(recipe, split, rows, row, first)[0],
    )


def class_names(rows: Dataset, name: str) -> tuple[str, ...]:
    """What the data set itself calls the numbers in a column's lists; nothing where it does not."""
    from datasets import ClassLabel

    inner = getattr(rows.features.get(name), "feature", None)
    return tuple(inner.names) if isinstance(inner, ClassLabel) else ()


def column(rows: Dataset, name: str) -> pa.ChunkedArray:
    """A column of the chosen rows."""
    # A selection keeps its rows in an index beside the table; reading the column goes through it. Without the slice it
    # would be read row by row, a millisecond each.
    values = rows.with_format("arrow")[name][:]
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def _load(recipe: RecipeSpec, split: Split) -> Dataset:
    from datasets import exceptions, load_dataset

    data = recipe.data
    path, files = str(Path(data.path).expanduser()) if data.path.startswith("~") else data.path, files_of(recipe, split)
    _check_named(recipe, split, path, files)
    if not Path(path).name:  # `.`, of which datasets would make a data set without a name
        path = str(Path(path).resolve())
    if (saved := saved_files(Path(path))) and files is None:
        path, files = "arrow", {"train": list(map(str, saved))}
    arguments = {"name": data.name, "data_files": files, "data_dir": data.data_dir, "revision": data.revision}
    arguments = {k: v for k, v in arguments.items() if v is not None} | read_options(recipe, split)
    try:
        if recipe.model.hub == "modelscope" and path not in BUILDERS and not Path(path).exists():
            return hub.modelscope_dataset(data.path, split.split, arguments)
        return load_dataset(path, split=split.split, **arguments)
    except (exceptions.DatasetGenerationError, FileNotFoundError, ConnectionError, ValueError, StopIteration) as error:
        raise not_loaded(recipe, split, error) from error


def _check_named(recipe: RecipeSpec, split: Split, path: str, files: Any) -> None:
    """What datasets would take for something else, or refuse with a message of its own."""
    data = recipe.data
    if path in BUILDERS and files is None and data.data_dir is None:
        # The builder would take every file below the current folder.
        raise LaunchError(
            "data.path {path!r} says how files are read, but not which",
            hint="add data.data_files.train=FILE and data.data_files.test=FILE",
            path=data.path,
        )
    if sheet := next((one for one in local_files(recipe, split) if ending(str(one)) in SHEETS), None):
        raise LaunchError("{sheet}: is a spreadsheet and no text", hint="save it as CSV in UTF-8", sheet=sheet)
    check_files(recipe, split)
    if ending(path) in READER.keys() | SHEETS and not Path(path).exists():
        raise LaunchError(
            "data.path {path!r}: no such file",
            hint="check its name",
            path=data.path,
        )


def _check_words(recipe: RecipeSpec, rows: Dataset, split: Split) -> None:
    """Words and tags of rows that datasets loads; of files each row was looked at when it was read."""
    (text,) = recipe.task.reads(recipe.data).values()
    (label,) = recipe.task.label_columns(recipe.data).values()
    words, tags = column(rows, text), column(rows, label)
    for name, values in ((text, words), (label, tags)):
        if not pa.types.is_list(values.type) and not pa.types.is_large_list(values.type):
            raise LaunchError(
                "{where}: column {name!r} is {kind}, and a list with an item for each word is expected",
                hint="name the column with the words as data.text, and the one with their tags as data.label",
                where=where(recipe, split),
                name=name,
                kind=values.type,
            )
    differ = pc.fill_null(pc.not_equal(pc.list_value_length(words), pc.list_value_length(tags)), True)
    wrong = pc.or_(differ, pc.equal(pc.fill_null(pc.list_value_length(words), 0), 0))
    if (row := pc.index(wrong, True).as_py()) >= 0:
        raise LaunchError(
            "{place}: has {words} words and {tags} tags",
            hint="correct these rows, or remove them",
            place=place(recipe, split, rows, row, text)[0],
            words=len(words[row].as_py() or ()),
            tags=len(tags[row].as_py() or ()),
        )


def _check_text(recipe: RecipeSpec, rows: Dataset, split: Split, key: str, name: str) -> None:
    values = column(rows, name)
    if values.null_count:
        row = next(i for i, value in enumerate(values) if not value.is_valid)
        raise label_values.missing(*place(recipe, split, rows, row, name), name, values.null_count)
    if not _is_text(values.type):
        others = [one for one in rows.column_names if _is_text(rows.data.column(one).type)]
        raise LaunchError(
            Message(
                "{where}: column {name!r} is {values}, not text",
                where=where(recipe, split),
                name=name,
                values=values.type,
            ),
            hint=Message("set {key} to one of {others}", key=key, others=", ".join(others))
            if others
            else "no column holds text; as JSON lines (data.path=json) a text stands in quotes in every row",
        )
    for one in {name, *recipe.task.label_columns(recipe.data).values()}:
        _check_encoding(recipe, split, rows, one)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return "string" in str(kind) and not pa.types.is_nested(kind)


def _check_encoding(recipe: RecipeSpec, split: Split, rows: Dataset, name: str) -> None:
    """JSON is read without a look at its bytes."""
    try:
        column(rows, name).validate(full=True)
    except pa.ArrowInvalid as error:
        problems = ((path, reason) for path in local_files(recipe, split) if (reason := no_text(path)))
        for path, (what, hint) in problems:
            raise LaunchError(f"{path}: {what}", hint=hint) from error
        at = Message("{where}: column {name!r}", where=where(recipe, split), name=name)
        raise LaunchError("{at} is not UTF-8", hint="write the data in UTF-8", at=at) from error
