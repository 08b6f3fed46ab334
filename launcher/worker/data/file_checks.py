"""What is wrong with a file of rows before or after it is read: no data at all, another encoding, a bad line."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

from launcher.data.encodings import UNPACK, no_data
from launcher.data.readers.csvfile import TABS
from launcher.data.readers.table import ending
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.schema import RecipeSpec, Split
from launcher.worker.data.sources import READER, local_files

_ENCODINGS = ("gb18030", "big5", "cp1252")
"""What text that is not UTF-8 is tried as, the strictest first; cp1252 takes nearly everything."""


def check_files(recipe: RecipeSpec, split: Split) -> None:
    """What a builder reads wrongly, or fails at with a message of its own."""
    for path in local_files(recipe, split):
        if READER.get(ending(str(path))) not in ("csv", "json", "text") or path.suffix in UNPACK:
            continue
        with path.open("rb") as file:
            start = file.read(64)
        if problem := no_data(start):
            raise LaunchError(f"{path}: {problem[0]}", hint=problem[1])
        if recipe.data.path == "csv":
            _check_first_row(path)


def _check_first_row(path: Path) -> None:
    """pandas takes the first cell for the name of a row, silently, where a row has one more than there are columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix in TABS else ",")
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


def bad_line(path: Path) -> tuple[int, str] | None:
    """The first line of a file of JSON lines that is not a row, and why; None of another file."""
    if ending(str(path)) != ".jsonl" or path.suffix in UNPACK:
        return None
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip() and not isinstance(json.loads(line.strip()), dict):
                    return number, Message("a row is {column: value}, as JSON")
            except json.JSONDecodeError as error:
                return number, Message("no JSON: {problem} (column {colno})", problem=error.msg, colno=error.colno)
    return None


def no_text(path: Path) -> tuple[str, str] | None:
    """Why a file that should be text is none in UTF-8, and what to do."""
    if READER.get(ending(str(path))) in ("parquet", "arrow") or path.suffix in UNPACK:
        return None
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        tried = ("utf-16",) if content.startswith((b"\xff\xfe", b"\xfe\xff")) else _ENCODINGS
        encoding = next((one for one in tried if _decodes(content, one)), "ENCODING")
        new = path.with_name(f"{path.stem}.utf8{path.suffix}")
        command = shlex.join(["iconv", "-f", encoding.upper(), "-t", "UTF-8", str(path)])
        return (
            Message(
                "is not UTF-8 at byte {start}{detail}",
                start=error.start,
                detail="" if encoding == "ENCODING" else Message("; it may be {encoding}", encoding=encoding.upper()),
            ),
            Message("{command} > {new}, and name that file", command=command, new=shlex.quote(str(new))),
        )
    return None


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
