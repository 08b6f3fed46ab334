"""Answers as a table: what stands as JSON lines in one file, written as CSV, TSV or Parquet into another."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.data.encodings import UNPACK
from launcher.data.readers import table
from launcher.data.readers.textfile import TEXT
from launcher.data.sources import SHEETS
from launcher.errors import LaunchError
from launcher.files import json_text
from launcher.messages import joined

INPUT = "input"
"""The key of an answer that holds its row."""
ROWS_AT_ONCE = 4096
_INTEGERS = range(-(2**63), 2**63)


@dataclass
class Column:
    """What the values of a column are."""

    kinds: set[str] = field(default_factory=set)

    def see(self, value: Any) -> None:
        if value is not None:
            self.kinds.add(_kind(value))

    def type(self) -> Any:
        """As pyarrow calls it; text where values are of several kinds, or are objects."""
        import pyarrow as pa

        known = {
            frozenset({"text"}): pa.string(),
            frozenset({"bool"}): pa.bool_(),
            frozenset({"int"}): pa.int64(),
            frozenset({"float"}): pa.float64(),
            frozenset({"int", "float"}): pa.float64(),
            frozenset({"numbers"}): pa.list_(pa.float64()),
        }
        return known.get(frozenset(self.kinds), pa.string())


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int) and value in _INTEGERS:
        return "int"
    if isinstance(value, float):
        return "float"
    is_numbers = isinstance(value, list) and value and all(type(one) in (int, float) for one in value)
    return "numbers" if is_numbers else "json"


def flat(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer whose row's columns are its own, as `input.NAME`."""
    out: dict[str, Any] = {}
    for name, value in answer.items():
        if name == INPUT and isinstance(value, dict):
            out |= {f"{INPUT}.{key}": one for key, one in value.items()}
        else:
            out[name] = value
    return out


def _as_csv(lines: Path, out: Path) -> None:
    _write_csv(lines, out, ",")


def _as_tsv(lines: Path, out: Path) -> None:
    _write_csv(lines, out, "\t")


def _write_csv(lines: Path, out: Path, delimiter: str) -> None:
    with out.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        writer = csv.DictWriter(file, list(_columns(lines)), restval="", delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in _rows(lines))


def _cell(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, str) else json_text(value)


def _as_parquet(lines: Path, out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, column.type()) for name, column in _columns(lines).items()])
    rows = _rows(lines)
    with pq.ParquetWriter(out, schema) as writer:
        while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist([_typed(row, schema) for row in some], schema))


def _typed(row: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    """With text in columns of text."""
    import pyarrow as pa

    def value(name: str, given: Any) -> Any:
        is_text = given is None or isinstance(given, str) or schema.field(name).type != pa.string()
        return given if is_text else json_text(given)

    return {name: value(name, given) for name, given in row.items()}


def _rows(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        yield from (flat(json.loads(line)) for line in file)


def _columns(lines: Path) -> dict[str, Column]:
    """In the order in which they come."""
    columns: dict[str, Column] = {}
    for row in _rows(lines):
        for name, value in row.items():
            columns.setdefault(name, Column()).see(value)
    return columns


_WRITERS: dict[str, Callable[[Path, Path], None]] = {".csv": _as_csv, ".tsv": _as_tsv, ".parquet": _as_parquet}
_LINES = (".jsonl", ".ndjson", *TEXT.endings)


def require_written(path: Path) -> None:
    """Raises LaunchError: the name is that of a form which answers are not written in, as a spreadsheet's or a packed file's."""
    ending = path.suffix.lower()
    if ending in _LINES or ending in _WRITERS or ending not in table.BY_ENDING.keys() | SHEETS | UNPACK.keys():
        return
    raise LaunchError(
        "--output {path}: answers are not written as {ending}",
        hint="name a file with {tables}, or with .jsonl for JSON lines",
        path=path,
        ending=ending,
        tables=joined(_WRITERS),
    )


def is_table(path: Path) -> bool:
    """Whether a file of this name is a table, and no lines of JSON."""
    return path.suffix.lower() in _WRITERS


def write_table(lines: Path, path: Path, out: Path) -> None:
    """Write what is to become the table `path` into `out`, of lines of JSON.

    Raises:
        LaunchError: it cannot be written.
    """
    try:
        _WRITERS[path.suffix.lower()](lines, out)
    except OSError as error:
        raise LaunchError(
            "{path}: cannot be written: {problem}; the answers are in {lines}, as JSON lines",
            hint="free some space",
            path=path,
            problem=error.strerror or error,
            lines=lines,
        ) from None
