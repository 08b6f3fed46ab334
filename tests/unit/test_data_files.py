"""Files of every kind, encoding and compression; splits, limits, weights and rows that are held out."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launcher.data import check, encodings, labels, mixture, read
from launcher.data.targets import Targets
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.schema import Data, Model, RecipeSpec
from launcher.recipe.tasks.table import MANY_LABELS

ROWS = [{"query": f"问题 {i}", "response": f"回答，第 {i} 个"} for i in range(4)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = "query,response\n" + "".join(f'{row["query"]},"{row["response"]}"\n' for row in ROWS)


def data(**keys: Any) -> Data:
    return Data.model_validate_json(json.dumps({"eval": None, **keys}))


def no_hub(source: Any) -> Any:
    raise AssertionError(f"{source} is here")


def read_files(**keys: Any) -> read.Read:
    return read.read(data(**keys), no_hub)


def pairs(texts: list[str]) -> list[dict[str, str]]:
    """The question and the answer of conversations."""
    turns = [[message["content"] for message in json.loads(text)["messages"]] for text in texts]
    return [{"query": query, "response": response} for query, response in turns]


def refused(**keys: Any) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        read_files(**keys)
    assert caught.value.hint
    return caught.value


# --- kinds of files -----------------------------------------------------------------------------------------------


def _zip(text: bytes) -> bytes:
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("rows.jsonl", text)
    return out.getvalue()


FILES: dict[str, bytes] = {
    "rows.jsonl": LINES.encode(),
    "rows.ndjson": LINES.encode(),
    "rows.json": json.dumps(ROWS).encode(),
    "lines.json": LINES.encode(),
    "indented.json": json.dumps(ROWS, indent=2).encode(),
    "one-after-the-other.json": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "blank-lines.jsonl": LINES.replace("\n", "\n\n").encode(),
    "windows.jsonl": LINES.replace("\n", "\r\n").encode(),
    "no-end.jsonl": LINES.rstrip().encode(),
    "rows.csv": TABLE.encode(),
    "semicolons.csv": TABLE.replace(",", ";").encode(),
    "tabs.csv": TABLE.replace(",", "\t").encode(),
    "rows.tsv": TABLE.replace(",", "\t").encode(),
    "windows.csv": TABLE.replace("\n", "\r\n").encode(),
    "bom.jsonl": LINES.encode("utf-8-sig"),
    "bom.csv": TABLE.encode("utf-8-sig"),
    "utf16.jsonl": LINES.encode("utf-16"),
    "utf16be.csv": b"\xfe\xff" + TABLE.encode("utf-16-be"),
    "utf32.csv": TABLE.encode("utf-32"),
    "gbk.jsonl": LINES.encode("gbk"),
    "gbk.csv": TABLE.encode("gbk"),
    "rows.jsonl.gz": gzip.compress(LINES.encode()),
    "gbk.csv.gz": gzip.compress(TABLE.encode("gbk")),
    "rows.json.bz2": bz2.compress(json.dumps(ROWS).encode()),
    "rows.tsv.xz": lzma.compress(TABLE.replace(",", "\t").encode()),
    "rows.jsonl.zst": pa.compress(LINES.encode(), codec="zstd", asbytes=True),
    "rows.jsonl.zip": _zip(LINES.encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_by_its_name(tmp_path, name):
    """Whatever it is packed with and written in."""
    (tmp_path / name).write_bytes(FILES[name])

    rows = pairs(read_files(path=str(tmp_path / name)).splits["train"])

    comma = "；" if name == "semicolons.csv" else "，"
    assert [row | {"response": row["response"].replace("，", comma)} for row in ROWS] == [
        row | {"response": row["response"].replace("，", comma)} for row in rows
    ]


def test_columnar_files_are_read(tmp_path):
    """Parquet, Arrow of both forms, and a folder of save_to_disk; fields that only other rows have are left out."""
    chats = [
        {
            "messages": [
                {"role": "user", "content": "a", "name": "Ann"},
                {"role": "assistant", "content": "b", "name": None},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "c", "name": None},
                {"role": "assistant", "content": "d", "name": None},
            ]
        },
    ]
    table = pa.Table.from_pylist(chats)
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as whole:
        whole.write_table(table)
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "data.arrow").write_bytes((tmp_path / "b.arrow").read_bytes())
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))

    expected = [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b"}]
    saved_dict = tmp_path / "dict"
    shutil.copytree(saved, saved_dict / "train")
    (saved_dict / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    for name in ("a.parquet", "b.arrow", "c.arrow", "saved", "dict"):
        rows = [json.loads(text)["messages"] for text in read_files(path=str(tmp_path / name)).splits["train"]]
        assert [expected, [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]] == rows


def test_a_text_file_is_a_text_a_line(tmp_path):
    (tmp_path / "book.txt").write_text("Once\n\n  upon a time \n")
    assert ['{"text":"Once"}', '{"text":"  upon a time "}'] == read_files(path=str(tmp_path / "book.txt")).splits[
        "train"
    ]


# --- encodings ----------------------------------------------------------------------------------------------------

WRITTEN = {
    "gb18030": [
        "text,label\n这家餐厅的服务很好，下次还会再来。,好评\n味道一般，价格太贵了。,差评\n",
        "label,text\n1,好评\n0,差评\n",
        '{"instruction": "请把下面的句子翻译成英文", "input": "今天天气不错", "output": "The weather is nice today."}\n',
        "hello world, this is a long text. " * 3000 + "只有这里是中文。",
        "这个字很少有人用，它写作：㐂、𠮷。",
    ],
    "big5": ["text,label\n這家餐廳的服務很好，下次還會再來。,好評\n味道一般，價格太貴了。,負評\n"],
    "cp932": ["text\nこのレストランはとても美味しかったです。\n", "映画は退屈だった\n"],
    "euc_kr": ["text\n이 식당은 정말 맛있어요. 다음에 또 올게요.\n", "영화가 재미있다\n"],
    "cp1252": [
        "Le café était très bon, naïve et déçu.\n",
        "El niño comió piñas. ¿Qué?\n",
        "It’s a “good” film\n",
        "naïve\n",
    ],
    "utf-16": ["text,label\n好评,1\n", "plain\n"],
    "utf-8": ["好评\n", "naïve\n", "plain\n", ""],
}


@pytest.mark.parametrize(("encoding", "text"), [(key, text) for key, texts in WRITTEN.items() for text in texts])
def test_an_encoding_is_recognised(tmp_path, encoding, text):
    """By what its text looks like, where neither a mark nor UTF-8 settles it."""
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))

    read_as = encodings.text_of(path)

    assert text == read_as.whole()
    assert (encoding in ("utf-8", "utf-16")) == read_as.is_certain


def test_utf_16_without_a_mark_is_recognised(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.txt").write_bytes("query,response\nHello,Hi\n".encode(encoding))
        assert (encoding, "query,response\nHello,Hi\n") == (
            encodings.text_of(tmp_path / "a.txt").encoding,
            encodings.text_of(tmp_path / "a.txt").whole(),
        )


def test_a_note_says_which_encoding_was_taken(tmp_path):
    """None of UTF-8, with or without a mark."""
    for encoding, expected in (("gbk", "GB18030"), ("utf-16", "UTF-16"), ("utf-8", None), ("utf-8-sig", None)):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(LINES.encode(encoding))
        notes = [f"{path} is not UTF-8: it was read as {expected}"] if expected else []
        assert notes == read_files(path=str(path)).notes


# --- what is wrong with files ---------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, list[str]]] = {
    "a.jsonl": (
        LINES.encode() + b'{"query": "a"\n\n[1]\n' + LINES.encode() + b"oops\n",
        [
            ":5: not JSON: Expecting ',' delimiter (column 14)",
            ":7: is a list and not an object: a row is {column: value}",
            ":12: not JSON: Expecting value (column 1)",
        ],
    ),
    "b.json": (
        b'[\n{"query": "a", "response": "b"},\n{"query": "a", "response": ""},\n3,\n{"query": oops}\n]',
        [
            ":3: 'response' is empty",
            ":4: is a number and not an object: a row is {column: value}",
            ":5: not JSON: Expecting value (column 11)",
        ],
    ),
    "c.json": (b'[\n{"query": "a", "response": "b"}\n', [":3: the list has no end: ']' is missing"]),
    "rows-inside.json": (
        b'{"data": [{"query": "a", "response": "b"}]}',
        [":1: is one object, whose rows are below 'data'"],
    ),
    "d.csv": (
        b'query,response\na,b\na,b,c\n"a\nb",c\na\n,b\n',
        [
            ":3: has 3 cells, and the first line names 2 columns: query, response",
            ":6: has 1 cells, and the first line names 2 columns: query, response",
            ":7: 'query' is empty",
        ],
    ),
    "e.csv": (b"PK\x03\x04rest", [": is an Excel or zip file and no text"]),
    "f.jsonl": (
        b"version https://git-lfs.github.com/spec/v1\n",
        [": is a pointer of Git LFS, and not the file itself"],
    ),
    "g.json": (b"<!DOCTYPE html><html>", [": is a web page, and not the file that was to be downloaded"]),
    "h.jsonl.gz": (b"no gzip", [": cannot be read: Not a gzipped file (b'no')"]),
    "i.jsonl.gz": (gzip.compress(LINES.encode())[:-9], [": cannot be read: Compressed file ended before"]),
    "j.jsonl": (b"\xff\x00\x81\x8d\x8f" * 9, [": is not UTF-8 at byte 0, nor in another encoding that is known"]),
    "k.parquet": (b"no parquet", [": cannot be read: Parquet magic bytes not found in footer"]),
    "l.arrow": (b"no arrow at all", [": cannot be read: "]),
    "m.jsonl": (b"[" * 100_000, [": not JSON"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_file_is_said_with_its_lines(tmp_path, name):
    """All of it at once."""
    content, expected = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)

    problems = refused(path=str(path)).what.splitlines()

    assert len(expected) == len(problems)
    for problem, line in zip(expected, problems, strict=True):
        assert line.startswith(str(path))
        assert problem in line


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"path": "none.jsonl"}, "data: none.jsonl: no such file"),
        ({"path": "json", "data_files": "none.jsonl"}, "data: none.jsonl: no such file"),
        ({"path": "json", "data_files": "none*.jsonl"}, "data: none*.jsonl: no such file"),
        ({"path": "json"}, "data: path 'json' says how files are read, but not which"),
        ({"path": "rows.xlsx"}, "rows.xlsx: is a spreadsheet and no text"),
        ({"path": "rows.dat"}, "rows.dat: a file of this kind is not read; known are .json, .jsonl, "),
        ({"path": "empty"}, "data: empty: holds no file of rows; known are .json, "),
        ({"path": "empty.jsonl"}, "empty.jsonl: has no rows"),
        ({"path": "rows.jsonl", "train": {"split": "dev"}}, "data: rows.jsonl: no split 'dev'; there is train"),
        ({"path": "rows.jsonl", "train": {"split": "train[5%]"}}, "'train[5%]' is not a split"),
        ({"path": "rows.jsonl", "train": {"split": "train[9:]"}}, "rows.jsonl: has no rows"),
        ({"path": "rows.jsonl", "eval": {"split": "test"}}, "rows.jsonl: has no split 'test' to evaluate on"),
        (
            {"path": "rows.jsonl", "eval": 4},
            "data.eval: 4 of 4 rows cannot be held out: some have to be left on either side",
        ),
        ({"path": "rows.jsonl", "eval": 0.1}, "data.eval: 0.1 of 4 rows cannot be held out: some have to be left"),
    ],
)
def test_what_the_recipe_names_is_there(tmp_path, monkeypatch, keys, what):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty.jsonl").write_text("\n")
    Path("rows.jsonl").write_text(LINES)
    Path("rows.xlsx").write_bytes(b"PK")
    Path("rows.dat").write_bytes(b"")

    assert what in refused(**keys).what


# --- splits and folders -------------------------------------------------------------------------------------------


def lines(path: Path, *numbers: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": str(number)}) + "\n" for number in numbers))


def numbers(texts: list[str]) -> list[int]:
    return [int(json.loads(text)["text"]) for text in texts]


def test_a_folders_files_are_splits_by_their_names(tmp_path, monkeypatch):
    """As datasets has them: in the order of their names, in folders below too; all are train where none says more."""
    monkeypatch.chdir(tmp_path)
    lines(Path("split/train-00000-of-00002.jsonl"), 0, 1)
    lines(Path("split/train-00001-of-00002.jsonl"), 2)
    lines(Path("split/data/test.jsonl"), 3)
    lines(Path("split/valid.jsonl"), 4)
    lines(Path("whole/b.jsonl"), 6)
    lines(Path("whole/a.jsonl"), 5)
    Path("whole/LICENSE.txt").write_text("mine")
    Path("whole/.hidden.jsonl").write_text("no JSON")
    Path("whole/dataset_info.json").write_text("{}")

    assert [0, 1, 2] == numbers(read_files(path="split").splits["train"])
    assert [3] == numbers(read_files(path="split", eval={"split": "test"}).splits["eval"])
    assert [4] == numbers(read_files(path="split", eval={"split": "validation"}).splits["eval"])
    assert [5, 6] == numbers(read_files(path="whole").splits["train"])


def test_slices_of_splits(tmp_path, monkeypatch):
    """load_dataset's words."""
    monkeypatch.chdir(tmp_path)
    lines(Path("a.jsonl"), *range(10))
    lines(Path("b.jsonl"), *range(10, 13))

    for split, expected in {
        "train[:90%]": range(9),
        "train[90%:]": [9],
        "train[2:4]": [2, 3],
        "train[-2:]": [8, 9],
        "train[:50%]+test[1:]": [0, 1, 2, 3, 4, 11, 12],
    }.items():
        files = {"train": "a.jsonl", "test": ["b.jsonl"]}
        assert list(expected) == numbers(
            read_files(path="json", data_files=files, train={"split": split}).splits["train"]
        )
    assert list(range(13)) == numbers(read_files(path="json", data_files="*.jsonl").splits["train"])


def test_a_source_that_is_no_file_is_loaded_elsewhere(tmp_path):
    """Of a hub: the places of its rows are their numbers."""
    rows = [{"text": "a"}, {"text": ""}]
    asked: list[str] = []

    def load(source: Any) -> Any:
        asked.append(source.spec.path)
        return rows

    with pytest.raises(LaunchError, match=r"^org/set: row 1: 'text' is empty"):
        read.read(data(path="org/set"), load)
    assert ['{"text":"a"}'] == read.read(data(path="org/set"), lambda source: rows[:1]).splits["train"]
    assert ["org/set"] == asked


# --- which rows ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines(Path("a.jsonl"), *range(100))
    lines(Path("b.jsonl"), *range(100, 150))


def test_sets_follow_each_other(sets):
    """Without weights every row is trained on."""
    assert list(range(150)) == numbers(read_files(sets=[{"path": "a.jsonl"}, {"path": "b.jsonl"}]).splits["train"])


def test_weights_are_shares_of_the_rows_that_are_trained_on(sets):
    """The largest mixture in which no row comes twice; a note says what is left out."""
    read = read_files(sets=[{"path": "a.jsonl", "weight": 0.5}, {"path": "b.jsonl", "weight": 0.5}])
    rows = numbers(read.splits["train"])

    assert (50, 50) == (sum(row < 100 for row in rows), sum(row >= 100 for row in rows))
    assert 100 == len(set(rows))
    assert rows == sorted(rows)
    assert ["a.jsonl: 50 of 100 rows are trained on, by the weights of the sets"] == read.notes


@pytest.mark.parametrize(
    ("sizes", "weights", "expected"),
    [
        ((100, 50), (2, 1), [100, 50]),
        ((100, 50), (1, 1), [50, 50]),
        ((100, 50), (0.7, 0.3), [100, 43]),
        ((1000, 10), (1, 1), [10, 10]),
        ((1000, 1), (1000, 1), [1000, 1]),
        ((3, 1000), (0.001, 1000), [1, 1000]),
    ],
)
def test_shares(sizes, weights, expected):
    assert expected == mixture.shares(sizes, weights)


def test_a_limit_keeps_rows_that_the_seed_chooses(sets):
    """In the order that they have; another seed takes others."""
    first, other = (
        numbers(read_files(sets=[{"path": "a.jsonl", "limit": 10, "seed": seed}]).splits["train"]) for seed in (1, 2)
    )
    assert (10, 10) == (len(first), len(other))
    assert first == sorted(first)
    assert first != other
    notes = read_files(path="a.jsonl", train={"limit": 101}).notes
    assert ["a.jsonl: limit is 101, the split has 100 rows: all are used"] == notes


def test_rows_are_held_out_by_their_content_and_the_seed(sets):
    """The same ones in any order of the file, in another process and wherever the file is; a number is a number of rows."""
    held = read_files(path="a.jsonl", eval={"hold_out": 0.1, "seed": 3}).splits["eval"]
    shuffled = list(range(100))
    random.Random(0).shuffle(shuffled)
    lines(Path("shuffled.jsonl"), *shuffled)

    assert 10 == len(held)
    assert sorted(held) == sorted(read_files(path="shuffled.jsonl", eval={"hold_out": 0.1, "seed": 3}).splits["eval"])
    assert held != read_files(path="a.jsonl", eval={"hold_out": 0.1, "seed": 4}).splits["eval"]
    assert 7 == len(read_files(path="a.jsonl", eval=7).splits["eval"])
    assert 5 == len(read_files(path="a.jsonl", eval={"hold_out": 0.1, "limit": 5}).splits["eval"])


def test_which_rows_are_held_out_is_the_same_for_ever(sets):
    """A run that goes on, or is evaluated later, has to find the same."""
    assert [15, 64, 90] == numbers(read_files(path="a.jsonl", eval=3).splits["eval"])


def test_equal_rows_are_held_out_together(sets):
    """Else the evaluation would have rows that were trained on."""
    lines(Path("twice.jsonl"), *range(50), *range(50))
    read = read_files(path="twice.jsonl", eval=0.11).splits

    assert not set(read["train"]) & set(read["eval"])
    assert (88, 12) == (len(read["train"]), len(read["eval"]))


def test_rows_are_held_out_of_the_mixture(sets):
    read = read_files(sets=[{"path": "a.jsonl", "limit": 20}, {"path": "b.jsonl"}], eval=0.5).splits
    assert (35, 35) == (len(read["train"]), len(read["eval"]))


def test_sets_have_formats_of_their_own(sets):
    """And columns and system messages; what a set does not say, `data` does."""
    Path("q.jsonl").write_text(json.dumps({"q": "Hello", "a": "Hi"}) + "\n")
    Path("m.jsonl").write_text(json.dumps({"query": "Hello", "response": "Hi"}) + "\n")
    columns = {"query": "q", "response": "a"}
    read = read_files(
        sets=[
            {"path": "q.jsonl", "columns": columns, "system": "Mine."},
            {"path": "m.jsonl"},
            {"path": "a.jsonl", "limit": 1},
        ],
        system="All.",
    )
    first = [json.loads(text).get("messages", [{}])[0].get("content") for text in read.splits["train"]]
    assert ["Mine.", "All.", None] == first


def test_problems_of_all_sets_are_said_at_once(sets):
    Path("x.jsonl").write_text('{"text": ""}\n')
    Path("y.jsonl").write_text('{"text": 3}\n')
    error = refused(sets=[{"path": "x.jsonl"}, {"path": "a.jsonl"}], eval={"mine": {"path": "y.jsonl"}})
    assert ["x.jsonl:1: 'text' is empty", "y.jsonl:1: 'text' is a number and not text"] == error.what.splitlines()


def test_only_what_is_evaluated_is_read_for_an_evaluation(sets):
    """Unless rows are held out of the training."""
    named = data(path="gone.jsonl", eval={"mine": {"path": "b.jsonl"}})
    assert {"eval.mine": 50} == {
        name: len(part) for name, part in read.read(named, no_hub, trains=False).splits.items()
    }
    held = data(path="a.jsonl", eval=0.1)
    assert ["eval"] == list(read.read(held, no_hub, trains=False).splits)


# --- before the launch --------------------------------------------------------------------------------------------


def test_the_check_before_a_launch_says_what_the_reading_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(LINES + "oops\n" + LINES + '{"query": ""}\n')
    with pytest.raises(LaunchError) as caught:
        check.require_conversations(data(path="a.jsonl"))
    assert str(refused(path="a.jsonl")) == str(caught.value)
    check.require_conversations(data(path="org/set"))  # which is not here
    for there in ({"path": "there.jsonl"}, {"path": "json", "data_files": {"train": "there.jsonl"}}):
        check.require_conversations(data(**there), elsewhere=True)
        with pytest.raises(LaunchError, match=r"there\.jsonl: no such file"):
            check.require_conversations(data(**there))


def test_the_check_imports_neither_torch_nor_datasets(tmp_path):
    """Nor pyarrow for files of text."""
    (tmp_path / "a.jsonl").write_text(LINES)
    code = (
        "import sys; from launcher.data import check; from launcher.recipe.schema import Data\n"
        f"check.require_conversations(Data(path={str(tmp_path / 'a.jsonl')!r}, eval=None))\n"
        "sys.exit(bool(sys.modules.keys() & {'torch', 'datasets', 'transformers', 'numpy', 'pyarrow'}))"
    )
    root = Path(__file__).resolve().parents[2]
    assert 0 == subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode


# --- labels -------------------------------------------------------------------------------------------------------


@pytest.fixture
def label_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The labels of a table's second column."""
    monkeypatch.chdir(tmp_path)

    def names(*values: Any, name: str = "a.jsonl", **keys: Any) -> Any:
        if name.endswith(".csv"):
            Path(name).write_text("text,label\n" + "".join(f"x,{value}\n" for value in values))
        else:
            Path(name).write_text("".join(json.dumps({"text": "x", "label": value}) + "\n" for value in values))
        return labels.names(data(path=name, **keys))

    return names


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("good", "bad", "good"), ("bad", "good")),
        (("10", "9", "9"), ("9", "10")),
        ((3, 1, 2, 1), ("1", "2", "3")),
        ((0, 4, 2), ("0", "2", "4")),
        ((4.0, 3.0), ("3", "4")),
        ((True, False), ("false", "true")),
        ((1, -1, 0, -100), ("0", "1")),
        (("a", None, "", "b"), ("a", "b")),
    ],
)
def test_labels_are_the_different_values_in_order(label_names, values, expected):
    """Numbers in theirs; -1 and -100 mark rows without one."""
    assert expected == label_names(*values)


def test_labels_of_a_csv_file_are_read_as_numbers_are(label_names):
    assert ("0", "1", "2") == label_names("1.0", "0.0", "2.0", name="a.csv")
    assert ("NA", "null") == label_names("null", "NA", name="a.csv")


def test_labels_of_the_evaluation_count(label_names):
    Path("b.jsonl").write_text('{"text": "x", "label": "worst"}\n')
    assert ("bad", "good", "worst") == label_names("good", "bad", eval={"sets": {"b": {"path": "b.jsonl"}}})


def test_a_data_sets_own_names_are_the_labels(tmp_path):
    """Of a Parquet file that datasets wrote, in its order."""
    feature = {"names": ["neg", "pos", "mixed"], "_type": "ClassLabel"}
    info = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    table = pa.table({"text": ["x", "y"], "label": [1, 0]}).replace_schema_metadata(info)
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "b.parquet")

    assert ("neg", "pos", "mixed") == labels.names(data(path=str(tmp_path / "a.parquet")))
    assert ("0", "1") == labels.names(data(path=str(tmp_path / "b.parquet")))
    listed = {"huggingface": json.dumps({"info": {"features": {"label": {"feature": feature, "_type": "List"}}}})}
    lists = pa.table({"text": ["x", "y"], "label": [[1, 0], []]})
    pq.write_table(lists.replace_schema_metadata(listed), tmp_path / "c.parquet")
    pq.write_table(lists, tmp_path / "d.parquet")
    many = Targets(MANY_LABELS, {"data.label": "label"})
    assert ("neg", "pos", "mixed") == labels.names(data(path=str(tmp_path / "c.parquet")), many)
    assert ("0", "1") == labels.names(data(path=str(tmp_path / "d.parquet")), many)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (("same", "same"), "a.jsonl: column 'label' has the label same alone"),
        ((None, ""), "a.jsonl: column 'label' is empty in every row"),
        ((0.5, 1.5), "a.jsonl: column 'label' holds 0.5, which is no whole number"),
        (([1, 2], [0]), "a.jsonl:1: 'label' is a list, not the name or number of a label"),
        (tuple(f"text {i}" for i in range(1001)), "a.jsonl: column 'label' has more than 1,000 different values"),
    ],
)
def test_a_column_without_labels_is_refused(label_names, values, what):
    with pytest.raises(LaunchError) as caught:
        label_names(*values)
    assert what in caught.value.what
    assert caught.value.hint


def test_labels_of_a_hub_are_not_known_before(label_names):
    assert labels.names(data(path="org/set")) is None


def test_messages_can_be_translated(tmp_path):
    """What is said of a row keeps its template."""
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    assert isinstance(refused(path=str(tmp_path / "a.jsonl")).what, Message)


def test_a_recipe_that_was_recorded_reads_the_same(sets):
    """A run that goes on reads its own record, in which every key is given."""
    given = data(sets=[{"path": "a.jsonl", "limit": 30}], format="text", eval=0.1)
    recorded = Data.model_validate_json(given.model_dump_json())

    assert given == recorded
    assert read.read(given, no_hub) == read.read(recorded, no_hub)
    with pytest.raises(LaunchError, match="no column 'messages'"):
        wrong = data(sets=[{"path": "a.jsonl"}], format="messages")
        read.read(Data.model_validate_json(wrong.model_dump_json()), no_hub)


def test_a_file_of_texts_and_labels_is_checked_before_a_launch(tmp_path, monkeypatch):
    """Every row without one of them at once, each with its line."""
    monkeypatch.chdir(tmp_path)
    rows = [("a", 0), (None, 1), ("b", None), (3, 1), ("c", [1]), ("d", 1)]
    Path("a.jsonl").write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    recipe = RecipeSpec(model=Model(name="m", num_labels=2), data=data(path="a.jsonl"))

    with pytest.raises(LaunchError) as caught:
        check.require_columns(recipe)

    assert [
        "a.jsonl:2: 'text' is empty",
        "a.jsonl:3: 'label' is empty",
        "a.jsonl:4: 'text' is a number and not text",
        "a.jsonl:5: 'label' is a list, not the name or number of a label",
    ] == caught.value.what.splitlines()
