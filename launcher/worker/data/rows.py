"""The rows that a recipe's `data:` names, read by datasets; and what is wrong with them, with the file and the row."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from launcher.errors import LaunchError
from launcher.messages import Message, plural
from launcher.recipe.schema import RecipeSpec, Split
from launcher.text import first_line
from launcher.worker.data import labels
from launcher.worker.models import hub

if TYPE_CHECKING:
    from datasets import Dataset


_BUILDERS = frozenset({"json", "csv", "parquet", "text", "arrow"})
_READER = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".arrow": "arrow",
}
_TABS = frozenset({".tsv", ".tab"})
_SHEETS = frozenset({".xlsx", ".xls", ".ods"})
_COMPRESSED = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip"})
_ENCODINGS = ("gb18030", "big5", "cp1252")
"""What text that is not UTF-8 is tried as, the strictest first; cp1252 takes nearly everything."""


def read(recipe: RecipeSpec, split: Split, *, is_eval: bool = False) -> Dataset:
    """The rows of one split, chosen, with a text each and a column for the label.

    Raises:
        LaunchError: they cannot be read, or hold no such columns.
    """
    rows = _load(recipe, split)
    if len(rows) == 0:
        raise _no_rows(recipe, split)
    for key, column in (("data.text", recipe.data.text), ("data.label", recipe.data.label)):
        if column not in rows.column_names:
            raise _no_column(recipe, split, rows, key, column, is_eval)
    _check_text(recipe, rows, split)
    if split.limit is None:
        return rows
    return rows.shuffle(seed=split.seed).select(range(min(split.limit, len(rows))))


def texts(recipe: RecipeSpec, rows: Dataset) -> pa.ChunkedArray:
    """The text column of the chosen rows."""
    return _column(rows, recipe.data.text)


def notes(recipe: RecipeSpec, rows: Dataset, split: Split) -> list[str]:
    """What the user should know about how a split was read."""
    if not _by_name(recipe, split):
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


def label_column(recipe: RecipeSpec, rows: Dataset, split: Split, *, is_eval: bool) -> labels.Column:
    """The label column of the chosen rows."""
    from datasets import ClassLabel

    name = recipe.data.label
    feature = rows.features[name]
    return labels.Column(
        name=name,
        values=_column(rows, name),
        split=split.split,
        where=Message(
            "{where}: split {split!r}: column {name!r}", where=where(recipe, split), split=split.split, name=name
        ),
        class_names=tuple(feature.names) if isinstance(feature, ClassLabel) else None,
        place=lambda row: _place(recipe, split, rows, row, name),
        no_labels_hint=_other_split(is_eval),
    )


def _column(rows: Dataset, name: str) -> pa.ChunkedArray:
    # A selection keeps its rows in an index beside the table; reading the column goes through it. Without the slice it
    # would be read row by row, a millisecond each.
    values = rows.with_format("arrow")[name][:]
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def where(recipe: RecipeSpec, split: Split) -> str:
    """The file or data set, for messages."""
    files = _files(recipe, split)
    if isinstance(files, dict) and len(files) == 1:
        (files,) = files.values()
    if files is None:
        return recipe.data.path
    return files if isinstance(files, str) else f"{recipe.data.path} {json.dumps(files)}"


def _load(recipe: RecipeSpec, split: Split) -> Dataset:
    from datasets import exceptions, load_dataset

    data = recipe.data
    path, files = str(Path(data.path).expanduser()) if data.path.startswith("~") else data.path, _files(recipe, split)
    if path in _BUILDERS and files is None and data.data_dir is None:
        # The builder would take every file below the current folder.
        raise LaunchError(
            "data.path {path!r} says how files are read, but not which",
            hint="add data.data_files.train=FILE and data.data_files.test=FILE",
            path=data.path,
        )
    if sheet := next((one for one in _local(recipe, split) if _ending(str(one)) in _SHEETS), None):
        raise LaunchError("{sheet}: is a spreadsheet and no text", hint="save it as CSV in UTF-8", sheet=sheet)
    _check_files(recipe, split)
    if path not in _BUILDERS and Path(path).is_file():
        raise _plain_file(path)
    if _ending(path) in _READER.keys() | _SHEETS and not Path(path).exists():
        raise LaunchError(
            "data.path {path!r}: no such file",
            hint="check its name; files are named as data.data_files",
            path=data.path,
        )
    if not Path(path).name:  # `.`, of which datasets would make a data set without a name
        path = str(Path(path).resolve())
    if (saved := _saved(Path(path))) and files is None:
        path, files = "arrow", {"train": saved}
    arguments = {"name": data.name, "data_files": files, "data_dir": data.data_dir, "revision": data.revision}
    arguments = {k: v for k, v in arguments.items() if v is not None} | _by_name(recipe, split)
    try:
        if recipe.model.hub == "modelscope" and path not in _BUILDERS and not Path(path).exists():
            return hub.modelscope_dataset(data.path, split.split, arguments)
        return load_dataset(path, split=split.split, **arguments)
    except exceptions.DatasetNotFoundError as error:
        gated = "gated" in str(error)
        raise LaunchError(
            f"data.path {data.path!r}: {first_line(error)}",
            hint="accept its terms on the hub and set HF_TOKEN"
            if gated
            else "check the spelling, or name a local folder",
        ) from error
    except exceptions.DatasetGenerationError as error:
        raise _unreadable(recipe, split, error.__cause__ or error) from error
    except FileNotFoundError as error:
        raise LaunchError(
            "{where}: {first_line}",
            hint="check data.path and data.data_files",
            where=where(recipe, split),
            first_line=first_line(error),
        ) from error
    except ConnectionError as error:
        raise LaunchError(
            "data.path {path!r}: {first_line}",
            hint="it is not in this machine's cache: run once with a network, set HF_ENDPOINT to a mirror, or "
            "use local files: data.path=json data.data_files.train=FILE data.data_files.test=FILE",
            path=data.path,
            first_line=first_line(error),
        ) from error
    except ValueError as error:
        if "corresponds to no data" in str(error):
            raise _no_rows(recipe, split) from error
        if found := re.search(r"Unknown split \S+ Should be one of (\[.*\])", str(error)):
            raise _no_split(recipe, split, re.findall(r"'([^']*)'", found[1])) from error
        raise LaunchError(
            "{where}: {first_line}",
            hint="check data.path, name and split",
            where=where(recipe, split),
            first_line=first_line(error),
        ) from error
    except StopIteration as error:
        raise _no_rows(recipe, split) from error


def _saved(folder: Path) -> list[str]:
    """The files of one data set that save_to_disk left in a folder, in order; none of another folder."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [row["filename"] for row in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    inside = all(isinstance(name, str) and name == Path(name).name for name in names)
    return [str(folder / name) for name in names] if inside else []


def _by_name(recipe: RecipeSpec, split: Split) -> dict[str, Any]:
    """What the names of a split's files tell of how they are read: tabs part the columns of a TSV file."""
    if recipe.data.path != "csv":
        return {}
    ends = {_ending(name) for name in _names(_files(recipe, split))}
    if len(ends & _TABS) and len(ends - _TABS):
        raise LaunchError(
            "{where}: files with tabs and files with commas are read apart",
            hint="name files of one kind for a split",
            where=where(recipe, split),
        )
    return {"delimiter": "\t"} if ends & _TABS else {}


def _names(files: Any) -> list[str]:
    if isinstance(files, dict):
        return [name for part in files.values() for name in _names(part)]
    return [files] if isinstance(files, str) else list(files or ())


def _ending(name: str) -> str:
    path = Path(name)
    return (Path(path.stem) if path.suffix in _COMPRESSED else path).suffix.lower()


def _files(recipe: RecipeSpec, split: Split) -> Any:
    """The files of one split alone, where the recipe names them: read together, a builder wants equal columns in all,
    and cannot say which file it stumbled over."""
    files, base = recipe.data.data_files, split.split.partition("[")[0]
    if recipe.data.path in _BUILDERS and isinstance(files, dict) and base in files:
        return {base: files[base]}
    return files


def _check_files(recipe: RecipeSpec, split: Split) -> None:
    """What a builder reads wrongly, or fails at in words of its own."""
    for path in _local(recipe, split):
        if _READER.get(_ending(str(path))) not in ("csv", "json", "text") or path.suffix in _COMPRESSED:
            continue
        with path.open("rb") as file:
            start = file.read(64)
        if found := _no_data(start):
            raise LaunchError(f"{path}: {found[0]}", hint=found[1])
        if recipe.data.path == "csv":
            _check_first_row(path)


def _no_data(start: bytes) -> tuple[str, str] | None:
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        return "is an Excel or zip file and no text", "save it as CSV in UTF-8"
    if start.startswith(b"version https://git-lfs."):
        return "is a pointer of Git LFS, and not the file itself", "fetch it: git lfs pull"
    if start[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, and not the file that was to be downloaded", "download it again"
    return None


def _check_first_row(path: Path) -> None:
    """pandas takes the first cell for the name of a row, silently, where a row has one more than there are columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix in _TABS else ",")
            rows = (cells for cells in reader if cells)
            names, first = next(rows, []), next(rows, [])
    except (ValueError, csv.Error):
        return
    if len(first) > len(names):
        raise LaunchError(
            Message(
                "{path}:{line_num}: has {num_first} cells, and the first line names {num_names} columns",
                path=path,
                line_num=reader.line_num,
                num_first=len(first),
                num_names=len(names),
            ),
            hint="put texts with a separator in them into double quotes, or write the data as JSON lines"
            if first[-1]
            else "remove the separator at the end of each line, or name that column too",
        )


def _no_rows(recipe: RecipeSpec, split: Split) -> LaunchError:
    return LaunchError(
        "{where}: split {split!r} has no rows",
        hint="name another split or file",
        where=where(recipe, split),
        split=split.split,
    )


def _plain_file(path: str) -> LaunchError:
    reader = _READER.get(_ending(path))
    if reader is None:
        return LaunchError(
            "data.path {path!r} is a file of a kind that is not read",
            hint="save it as JSON lines, CSV in UTF-8 or Parquet, and name it as data.data_files",
            path=path,
        )
    return LaunchError(
        "data.path {path!r} is a file; data.path says how files are read, and data.data_files which",
        hint="set data.path={reader} {last} {cut}; or data.path={reader} {value} data.data_files.test=FILE",
        path=path,
        reader=reader,
        last=shlex.quote("data.data_files=" + path),
        cut=_cut(),
        value=shlex.quote("data.data_files.train=" + path),
    )


def _cut() -> str:
    """Overrides that hold the last tenth of one split out."""
    return "'data.train.split=train[:90%]' 'data.eval.split=train[90%:]'"


def _no_split(recipe: RecipeSpec, split: Split, there: list[str]) -> LaunchError:
    base = split.split.partition("[")[0]
    what = plural(
        "{where}: no split {base!r}; there is {place}",
        "{where}: no split {base!r}; there are {place}",
        count=len(there),
        where=where(recipe, split),
        base=base,
        place=", ".join(there),
    )
    others = [name for name in there if name != "train"]
    if split != recipe.data.eval:
        return LaunchError(what, hint=Message("set data.train.split={place}", place=there[0]))
    if others:
        return LaunchError(
            what, hint=Message("set data.eval.split={other}, or data.eval=null to evaluate on none", other=others[0])
        )
    return LaunchError(what, hint=Message("hold rows out: {cut}; or evaluate on none: data.eval=null", cut=_cut()))


def _other_split(is_eval: bool) -> str:
    if is_eval:
        return Message("name a split that has labels as data.eval.split, or set data.eval=null to evaluate on none")
    return Message("name a split that has labels as data.train.split, or the column that holds them as data.label")


def _no_column(recipe: RecipeSpec, split: Split, rows: Dataset, key: str, column: str, is_eval: bool) -> LaunchError:
    at = where(recipe, split)
    names = rows.column_names
    what = Message("{at}: no column {column!r} in split {split!r}", at=at, column=column, split=split.split)
    if near := next((name for name in names if name.strip() == column), None):
        return LaunchError(
            "{what}: its name there is {near!r}", hint="remove the spaces around it in the file", what=what, near=near
        )
    for path in _local(recipe, split):
        reader = _READER.get(_ending(str(path)))
        if reader in ("json", "parquet", "arrow") and recipe.data.path in _BUILDERS - {reader}:
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
        return LaunchError("{what}{has}", hint=_other_split(is_eval), what=what, has=has)
    return LaunchError(what, hint=Message("set {key} to one of {others}", key=key, others=", ".join(others)))


def _header_problem(recipe: RecipeSpec, split: Split, names: list[str]) -> tuple[str, str] | None:
    """Why a CSV file's first line gave no names of columns, and what to do."""
    if recipe.data.path != "csv":
        return None
    tabs = bool(_by_name(recipe, split))
    if len(names) == 1 and not tabs and "\t" in names[0]:
        return Message("its columns are separated by tabs"), Message(
            "rename the file so that it ends in .tsv, which is read with tabs"
        )
    if len(names) == 1 and tabs and "," in names[0]:
        return Message("its columns are separated by commas"), Message("rename the file so that it ends in .csv")
    if len(names) == 1 and (found := re.search(r"[;|]", names[0])):
        return Message("its columns are separated by {actual!r}", actual=found[0]), Message(
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
    for name in _local(recipe, split):
        if reason := _no_text(name):
            return LaunchError(f"{name}: {reason[0]}", hint=reason[1])
        reader = _READER.get(_ending(str(name)))
        if reader is not None and path in _BUILDERS and reader != path:
            return LaunchError(
                "{name}: cannot be read as {path}: {first_line}",
                hint="set data.path={reader}",
                name=name,
                path=path,
                first_line=first_line(cause),
                reader=reader,
            )
        if path == "json" and (found := _bad_line(name)):
            return LaunchError(
                "{name}:{actual}: cannot be read: {second_actual}",
                hint="correct that line",
                name=name,
                actual=found[0],
                second_actual=found[1],
            )
    return LaunchError(
        "{where}: cannot be read: {first_line}",
        hint="correct that file",
        where=where(recipe, split),
        first_line=first_line(cause),
    )


def _bad_line(path: Path) -> tuple[int, str] | None:
    """The first line of a file of JSON lines that is no row, and why; None of another file."""
    if _ending(str(path)) != ".jsonl" or path.suffix in _COMPRESSED:
        return None
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip() and not isinstance(json.loads(line.strip()), dict):
                    return number, Message("a row is {column: value}, as JSON")
            except json.JSONDecodeError as error:
                return number, Message("no JSON: {problem} (column {colno})", problem=error.msg, colno=error.colno)
    return None


def _local(recipe: RecipeSpec, split: Split) -> list[Path]:
    """The split's files, where the recipe names them and they are here."""
    named = [Path(name) for name in _names(_files(recipe, split))]
    return [path for path in named if path.is_file()]


def _no_text(path: Path) -> tuple[str, str] | None:
    """Why a file that should be text is none in UTF-8, and what to do."""
    if _READER.get(_ending(str(path))) in ("parquet", "arrow") or path.suffix in _COMPRESSED:
        return None
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        tried = ("utf-16",) if content.startswith((b"\xff\xfe", b"\xfe\xff")) else _ENCODINGS
        encoding = next((one for one in tried if _decodes(content, one)), "ENCODING")
        new = path.with_name(f"{path.stem}.utf8{path.suffix}")
        words = shlex.join(["iconv", "-f", encoding.upper(), "-t", "UTF-8", str(path)])
        return (
            Message(
                "is not UTF-8 at byte {start}{detail}",
                start=error.start,
                detail="" if encoding == "ENCODING" else Message("; it may be {encoding}", encoding=encoding.upper()),
            ),
            Message("{words} > {new}, and name that file", words=words, new=shlex.quote(str(new))),
        )
    return None


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _check_text(recipe: RecipeSpec, rows: Dataset, split: Split) -> None:
    name = recipe.data.text
    values = _column(rows, name)
    if values.null_count:
        row = next(i for i, value in enumerate(values) if not value.is_valid)
        raise labels.missing(*_place(recipe, split, rows, row, name), name, values.null_count)
    if not _is_text(values.type):
        others = [one for one in rows.column_names if _is_text(rows.data.column(one).type)]
        raise LaunchError(
            Message(
                "{where}: column {name!r} is {values}, not text",
                where=where(recipe, split),
                name=name,
                values=values.type,
            ),
            hint=Message("set data.text to one of {others}", others=", ".join(others))
            if others
            else "no column holds text; as JSON lines (data.path=json) a text stands in quotes in every row",
        )
    for one in {name, recipe.data.label}:
        _check_encoding(recipe, split, rows, one)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return "string" in str(kind) and not pa.types.is_nested(kind)


def _check_encoding(recipe: RecipeSpec, split: Split, rows: Dataset, name: str) -> None:
    """JSON is read without a look at its bytes."""
    try:
        _column(rows, name).validate(full=True)
    except pa.ArrowInvalid as error:
        found = ((path, reason) for path in _local(recipe, split) if (reason := _no_text(path)))
        for path, (what, hint) in found:
            raise LaunchError(f"{path}: {what}", hint=hint) from error
        at = Message("{where}: column {name!r}", where=where(recipe, split), name=name)
        raise LaunchError("{at} is not UTF-8", hint="write the data in UTF-8", at=at) from error


def _place(recipe: RecipeSpec, split: Split, rows: Dataset, row: int, column: str) -> tuple[str, str | None]:
    """Where a row is: file, line and number where that can be told; and what a CSV file has there in a column."""
    if rows._indices is not None:
        row = rows._indices.column(0)[row].as_py()
    said = Message("row {row} of split {split!r}", row=row, split=split.split)
    files = _local(recipe, split)
    if len(files) != 1 or "[" in split.split or files[0].suffix in _COMPRESSED:
        return f"{where(recipe, split)}: {said}", None
    try:
        line, written = next(
            (found for i, found in enumerate(_lines(recipe, files[0], column)) if i == row), (None, None)
        )
    except (OSError, ValueError, csv.Error):
        line = written = None
    return (f"{files[0]}:{line}: {said}" if line else f"{files[0]}: {said}"), (written or "").strip() or None


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
        reader = csv.reader(file, delimiter="\t" if path.suffix in _TABS else ",")
        at, begin = None, 1
        for cells in reader:
            if cells and at is None:
                at = cells.index(column) if column in cells else -1
            elif cells and at is not None:
                yield begin, cells[at] if 0 <= at < len(cells) else None
            begin = reader.line_num + 1
