"""Conversations are read, checked and tokenised by a preparation; what is evaluated is as the recipe says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LaunchError
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


@pytest.fixture
def read_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rows]:
    """Read a recipe's rows; files are written first, and are in the current folder."""
    monkeypatch.chdir(tmp_path)

    def run(files: dict[str, list[Any]], **data: Any) -> Rows:
        for name, rows in files.items():
            Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        path = tmp_path / "mine.yaml"
        given = {
            "model": {"name": str(TINY), "task": "sft"},
            "data": {"max_length": 64, "chat_template": "chatml", **data},
        }
        path.write_text(json.dumps(given), encoding="utf-8")
        made = decide.make(load.load(path, (), {}), Cluster("cpu", source="a test"), plan.Options(nproc=1))
        return splits.read_rows(made.recipe, Untrained())  # type: ignore[arg-type]

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
