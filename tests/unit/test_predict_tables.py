"""What `predict` reads besides lines of UTF-8: tables, lists, packed files and other encodings."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launcher.errors import LaunchError
from launcher.jobs import tables
from launcher.jobs.rows import Bad, Row, Texts, parse

TEXTS = ["味道很好", "太贵了"]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS)


def read(path: Path, asked: str = "auto") -> list[Any]:
    """The texts, and what is wrong in the place of others."""
    table = tables.opened(path, asked)
    assert table is not None
    texts: list[Any] = []
    while not table.lines.is_over:
        for number, raw in table.lines.read():
            parsed = raw if isinstance(raw, Bad) else parse(raw, number, table.form or "jsonl", Texts("text"))
            texts.append(parsed.item if isinstance(parsed, Row) else parsed)
    return texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", f"text,id\n{TEXTS[0]},1\n{TEXTS[1]},2\n".encode()),
        ("a.csv", f"text;id\n{TEXTS[0]};1\n{TEXTS[1]};2\n".encode("gbk")),
        ("a.tsv", f"id\ttext\n1\t{TEXTS[0]}\n2\t{TEXTS[1]}\n".encode("utf-16")),
        ("a.json", json.dumps([{"text": text} for text in TEXTS], indent=1).encode()),
        ("a.jsonl", LINES.encode("gb18030")),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.txt", "\n".join(TEXTS).encode("gbk")),
        ("a.txt.gz", gzip.compress("\n".join(TEXTS).encode(), mtime=0)),
        ("texts", "\r\n".join(TEXTS).encode("utf-16")),
    ],
)
def test_texts_of_other_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert TEXTS == read(tmp_path / name, "text" if name == "texts" else "auto")


def test_texts_of_a_parquet_file(tmp_path):
    pq.write_table(pa.table({"text": TEXTS, "n": [1, 2]}), tmp_path / "a.parquet")
    assert TEXTS == read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.json", LINES.encode()),
        ("a.txt", "\n".join(TEXTS).encode()),
        ("a.jsonl", LINES.encode() + b"\xff\n"),
        ("a.txt", b"a\n\xff\xfe\n"),
        ("a", b"\x00\x01"),
    ],
)
def test_lines_of_utf_8_are_streamed_as_before(tmp_path, name, content):
    """A line that is none is said by its number there, or passed over."""
    (tmp_path / name).write_bytes(content)
    assert tables.opened(tmp_path / name, "auto") is None
    assert tables.opened(tmp_path / "none.csv", "auto") is None


def test_a_row_that_is_none_is_bad_where_it_stands(tmp_path):
    (tmp_path / "a.csv").write_text("text,id\na,1\nb\n,2\n")
    assert ["a", Bad(3, "has 1 cells, and the first line names 2 columns: text, id"), ""] == read(tmp_path / "a.csv")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    (tmp_path / "a.json").write_bytes(b"[{]")
    with pytest.raises(LaunchError, match=r"a\.xlsx: is a spreadsheet"):
        tables.opened(tmp_path / "a.xlsx", "auto")
    assert [Bad(1, "not JSON: Expecting property name enclosed in double quotes (column 3)")] == read(
        tmp_path / "a.json"
    )
