"""Rows that cannot be read, or hold no such column: the errors, with what the recipe would have to say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.data.readers.table import ending
from launcher.errors import LaunchError
from launcher.messages import Message, plural
from launcher.recipe.schema import RecipeSpec, Split
from launcher.text import first_line
from launcher.worker.data.file_checks import bad_line, no_text
from launcher.worker.data.sources import BUILDERS, READER, local_files, read_options, where

if TYPE_CHECKING:
    from datasets import Dataset


def no_rows(recipe: RecipeSpec, split: Split) -> LaunchError:
    return LaunchError(
        "{where}: split {split!r} has no rows",
        hint="name another split or file",
        where=where(recipe, split),
        split=split.split,
    )


def _no_split(recipe: RecipeSpec, split: Split, names: list[str]) -> LaunchError:
    base = split.split.partition("[")[0]
    what = plural(
        "{where}: no split {base!r}; there is {place}",
        "{where}: no split {base!r}; there are {place}",
        count=len(names),
        where=where(recipe, split),
        base=base,
        place=", ".join(names),
    )
    others = [name for name in names if name != "train"]
    if split != recipe.data.eval:
        return LaunchError(what, hint=Message("set data.train.split={place}", place=names[0]))
    if others:
        return LaunchError(
            what, hint=Message("set data.eval.split={other}, or data.eval=null to evaluate on none", other=others[0])
        )
    return LaunchError(what, hint="hold rows out: data.eval=0.1; or evaluate on none: data.eval=null")


def other_split(is_eval: bool) -> str:
    if is_eval:
        return Message("name a split that has labels as data.eval.split, or set data.eval=null to evaluate on none")
    return Message("name a split that has labels as data.train.split, or the column that holds them as data.label")


def no_column(recipe: RecipeSpec, split: Split, rows: Dataset, key: str, column: str, is_eval: bool) -> LaunchError:
    at = where(recipe, split)
    names = rows.column_names
    what = Message("{at}: no column {column!r} in split {split!r}", at=at, column=column, split=split.split)
    if near := next((name for name in names if name.strip() == column), None):
        return LaunchError(
            "{what}: its name there is {near!r}", hint="remove the spaces around it in the file", what=what, near=near
        )
    for path in local_files(recipe, split):
        reader = READER.get(ending(str(path)))
        if reader in ("json", "parquet", "arrow") and recipe.data.path in BUILDERS - {reader}:
            return LaunchError(
                "{what}, read as {path}", hint="set data.path={reader}", what=what, path=recipe.data.path, reader=reader
            )
    if problem := _header_problem(recipe, split, names):
        return LaunchError(f"{what}: {problem[0]}", hint=problem[1])
    others = [name for name in names if key != "data.label" or name != recipe.data.text]
    if key == "data.label" and (not others or is_eval):
        has = (
            Message(", which has {names}: this split has no labels", names=", ".join(names))
            if is_eval
            else Message(": its rows have no labels")
        )
        return LaunchError("{what}{has}", hint=other_split(is_eval), what=what, has=has)
    return LaunchError(what, hint=Message("set {key} to one of {others}", key=key, others=", ".join(others)))


def _header_problem(recipe: RecipeSpec, split: Split, names: list[str]) -> tuple[str, str] | None:
    """Why a CSV file's first line gave no names of columns, and what to do."""
    if recipe.data.path != "csv":
        return None
    tabs = bool(read_options(recipe, split))
    if len(names) == 1 and not tabs and "\t" in names[0]:
        return Message("its columns are separated by tabs"), Message(
            "rename the file so that it ends in .tsv, which is read with tabs"
        )
    if len(names) == 1 and tabs and "," in names[0]:
        return Message("its columns are separated by commas"), Message("rename the file so that it ends in .csv")
    if len(names) == 1 and (match := re.search(r"[;|]", names[0])):
        return Message("its columns are separated by {actual!r}", actual=match[0]), Message(
            "save it with commas, or as .tsv with tabs"
        )
    if any(re.fullmatch(r"\s*-?\d+(\.\d+)?\s*|.{60,}|(\S+\s+){4,}.*", name) for name in names):
        line = ("\t" if tabs else ",").join(_likely(recipe, names))
        return (
            Message("its first line is a row and no names of columns: {names}", names=", ".join(n[:40] for n in names)),
            Message("add a first line with the names, such as {line!r}", line=line),
        )
    return None


def _likely(recipe: RecipeSpec, names: list[str]) -> list[str]:
    """Names for a first line: the longest cell is the text, one of the others the label."""
    longest = max(range(len(names)), key=lambda i: len(names[i]))
    rest = [i for i in range(len(names)) if i != longest]
    label = next((i for i in rest if len(names[i].strip()) < 20), rest[0] if rest else -1)
    return [
        recipe.data.text if i == longest else recipe.data.label if i == label else f"column_{i + 1}"
        for i in range(len(names))
    ]


def _unreadable(recipe: RecipeSpec, split: Split, cause: BaseException) -> LaunchError:
    """Of files that the builder could not read: which, and why."""
    path = recipe.data.path
    for name in local_files(recipe, split):
        if reason := no_text(name):
            return LaunchError(f"{name}: {reason[0]}", hint=reason[1])
        reader = READER.get(ending(str(name)))
        if reader is not None and path in BUILDERS and reader != path:
            return LaunchError(
                "{name}: cannot be read as {path}: {first_line}",
                hint="set data.path={reader}",
                name=name,
                path=path,
                first_line=first_line(cause),
                reader=reader,
            )
        if path == "json" and (problem := bad_line(name)):
            return LaunchError(
                "{name}:{actual}: cannot be read: {second_actual}",
                hint="correct that line",
                name=name,
                actual=problem[0],
                second_actual=problem[1],
            )
    return LaunchError(
        "{where}: cannot be read: {first_line}",
        hint="correct that file",
        where=where(recipe, split),
        first_line=first_line(cause),
    )


def not_loaded(recipe: RecipeSpec, split: Split, error: Exception) -> LaunchError:
    """Of rows that datasets would not load: why, in terms of the recipe."""
    from datasets import exceptions

    path, at, reason = recipe.data.path, where(recipe, split), first_line(error)
    if isinstance(error, exceptions.DatasetNotFoundError):
        hint = Message("check the spelling, or name a local folder")
        if "gated" in str(error):
            hint = Message("accept its terms on the hub and set HF_TOKEN")
        return LaunchError("data.path {path!r}: {first_line}", hint=hint, path=path, first_line=reason)
    if isinstance(error, exceptions.DatasetGenerationError):
        return _unreadable(recipe, split, error.__cause__ or error)
    if isinstance(error, FileNotFoundError):
        return LaunchError(
            "{where}: {first_line}", hint="check data.path and data.data_files", where=at, first_line=reason
        )
    if isinstance(error, ConnectionError):
        return LaunchError(
            "data.path {path!r}: {first_line}",
            hint="it is not in this machine's cache: run once with a network, set HF_ENDPOINT to a mirror, or "
            "use local files: data.path=json data.data_files.train=FILE data.data_files.test=FILE",
            path=path,
            first_line=reason,
        )
    if isinstance(error, StopIteration) or "corresponds to no data" in str(error):
        return no_rows(recipe, split)
    if match := re.search(r"Unknown split \S+ Should be one of (\[.*\])", str(error)):
        return _no_split(recipe, split, re.findall(r"'([^']*)'", match[1]))
    return LaunchError("{where}: {first_line}", hint="check data.path, name and split", where=at, first_line=reason)
