"""Conversations are read, checked and tokenised by a preparation; what is evaluated is as the recipe says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LaunchError
from launcher.jobs import labels
from launcher.machine.cluster import Cluster
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.worker.data import splits
from launcher.worker.data.splits import Rows

REPO = Path(__file__).resolve().parent.parent.parent
TINY = REPO / "recipes" / "tiny"
CHATS = [
    {"messages": [{"role": "user", "content": f"Question {i}"}, {"role": "assistant", "content": f"Answer {i}"}]}
    for i in range(40)
]

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


class Untrained:
    """A start that reading looks at."""

    trained = None
    label_names = None


class Trained:
    """Of weights that are evaluated."""

    trained = "weights"
    label_names = ("bad", "good")


@pytest.fixture
def read_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rows]:
    """Read a recipe's rows; files are written first, and are in the current folder."""
    monkeypatch.chdir(tmp_path)

    def run(files: dict[str, list[Any]], start: Any = Untrained, task: str = "sft", **data: Any) -> Rows:
        for name, rows in files.items():
            Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        path = tmp_path / "mine.yaml"
        given = {"model": {"name": str(TINY), "task": task}, "data": {"max_length": 64, **data}}
        path.write_text(json.dumps(given), encoding="utf-8")
        made = decide.make(
            labels.named(load.load(path, (), {})), Cluster("cpu", source="a test"), plan.Options(nproc=1)
        )
        return splits.read_rows(made.recipe, start)  # type: ignore[arg-type]

    return run


def texts(rows: Rows, name: str) -> list[Any]:
    return [json.loads(text) for text in rows.splits[name]["conversation"][:]]


def test_a_plain_file_is_read_with_rows_held_out(read_rows):
    """`path: chats.jsonl` and `eval: 0.1` are all that a recipe needs."""
    rows = read_rows({"chats.jsonl": CHATS}, path="chats.jsonl", eval=0.1)

    train, held = texts(rows, "train"), texts(rows, "eval")
    assert (36, 4) == (len(train), len(held))
    assert sorted(map(json.dumps, CHATS)) == sorted(map(json.dumps, [*train, *held]))


def test_without_a_test_split_the_ways_out_are_named(read_rows):
    """One file has no split `test`, which is what is evaluated where the recipe says nothing."""
    with pytest.raises(LaunchError) as caught:
        read_rows({"chats.jsonl": CHATS}, path="chats.jsonl")

    assert "chats.jsonl: has no split 'test' to evaluate on" == caught.value.what
    assert "data.eval=0.1" in caught.value.hint
    assert "data.eval=null" in caught.value.hint


def test_sets_by_names_are_evaluated_each(read_rows):
    """In the recipe's order."""
    rows = read_rows(
        {"a.jsonl": CHATS[:20], "b.jsonl": CHATS[20:25], "c.jsonl": CHATS[:3]},
        path="a.jsonl",
        eval={"new": {"path": "b.jsonl"}, "known": {"path": "c.jsonl", "limit": 2}},
    )

    assert ["train", "eval.new", "eval.known"] == list(rows.splits)
    assert CHATS[20:25] == texts(rows, "eval.new")
    assert 2 == len(rows.splits["eval.known"])
    assert ["2 of 2 evaluation rows have the text of a training row: figures tell less of new texts"] == list(
        rows.notes
    )


def test_load_datasets_arguments_stay(read_rows):
    """`path: json` with files of two splits, and slices of one."""
    files = {"a.jsonl": CHATS[:20], "b.jsonl": CHATS[20:25]}
    rows = read_rows(files, path="json", data_files={"train": "a.jsonl", "test": "b.jsonl"})
    cut = {"path": "json", "data_files": "a.jsonl", "train": {"split": "train[:90%]"}, "eval": {"split": "train[90%:]"}}

    assert (CHATS[:20], CHATS[20:25]) == (texts(rows, "train"), texts(rows, "eval"))
    assert (CHATS[:18], CHATS[18:20]) == tuple(texts(read_rows({}, **cut), name) for name in ("train", "eval"))


def test_what_only_datasets_reads_is_checked_alike(read_rows, tmp_path):
    """A file at a URL; its fields that only other rows have are left out, and a row has its number for a place."""
    rows = [{"messages": [{**CHATS[0]["messages"][0], "name": "Ann"}, CHATS[0]["messages"][1]]}, *CHATS[1:4]]
    url = {"path": "json", "data_files": f"file://{tmp_path}/a.jsonl", "eval": None}

    assert rows == texts(read_rows({"a.jsonl": rows}, **url), "train")
    with pytest.raises(LaunchError, match=r"a\.jsonl: row 4: message 1: role 'me' is not known"):
        read_rows({"a.jsonl": [*rows, {"messages": [{"role": "me", "content": "x"}]}]}, **url)


@pytest.mark.parametrize("path", [{"path": "a.jsonl"}, {"path": "json", "data_files": "a.jsonl"}])
def test_what_was_held_out_is_evaluated_later(read_rows, path):
    """The same rows, whoever reads them, and without those of the training."""
    rows = [{"text": f"mail {i}", "label": ("good", "bad")[i % 3 > 0]} for i in range(30)]
    task = "sequence-classification"
    first = read_rows({"a.jsonl": rows}, task=task, eval=0.2, **path)
    later = read_rows({"a.jsonl": rows}, Trained, task, eval=0.2, **path)

    assert (["train", "eval"], ["eval"]) == (list(first.splits), list(later.splits))
    assert (24, 6) == tuple(map(len, first.splits.values()))
    assert first.splits["eval"]["text"][:] == later.splits["eval"]["text"][:]
    assert first.numbered.labels["eval"].tolist() == later.numbered.labels["eval"].tolist()
    assert ("bad", "good") == first.numbered.names == later.numbered.names


def test_a_row_of_a_plain_file_has_its_line(read_rows):
    """Rows without a text or a label, after a shuffle too."""
    rows = [{"text": f"mail {i}", "label": i % 2} for i in range(30)]
    for wrong, what in (
        ({"text": None, "label": 0}, "'text' is empty"),
        ({"text": "x", "label": None}, "'label' is empty"),
    ):
        with pytest.raises(LaunchError, match=rf"^a\.jsonl:31: {what}\n"):
            read_rows(
                {"a.jsonl": [*rows, wrong]}, task="sequence-classification", path="a.jsonl", eval=3, train={"limit": 31}
            )
    with pytest.raises(LaunchError, match=r"^a\.jsonl:31: 'text' is a number and not text\n"):
        read_rows({"a.jsonl": [*rows, {"text": 3, "label": 0}]}, task="sequence-classification", path="a.jsonl", eval=3)
    with pytest.raises(LaunchError, match=r"^a\.jsonl: no column 'review'; there is text, label\n"):
        read_rows({"a.jsonl": rows}, task="sequence-classification", path="a.jsonl", eval=3, text="review")


def test_texts_and_labels_of_a_csv_file_are_as_they_stand(read_rows, tmp_path):
    """NA is a text; labels may be written as 4.0, and in GBK."""
    (tmp_path / "a.csv").write_bytes("文本,label\nNA,2.0\n好,1.0\nnull,2.0\n坏,3.0\n".encode("gbk"))
    rows = read_rows({}, task="sequence-classification", path="a.csv", text="文本", eval={"hold_out": 1, "seed": 5})

    assert sorted(["NA", "好", "null", "坏"]) == sorted(
        rows.splits["train"]["文本"][:] + rows.splits["eval"]["文本"][:]
    )
    assert ("1", "2", "3") == rows.numbered.names
    assert "a.csv is not UTF-8: it was read as GB18030" in rows.notes
