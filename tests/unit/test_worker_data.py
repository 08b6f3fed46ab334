"""Data is checked and tokenised once, before any rank; each mistake is one sentence with the value and what to do."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from launcher.errors import EXIT_USER, LaunchError
from launcher.machine.cluster import Cluster
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.recipe.schema import Data, Model, RecipeSpec
from launcher.rundir.paths import RunDir
from launcher.rundir.prepared import Prepared
from launcher.worker.batching import splits
from launcher.worker.data import prepare as preparation
from launcher.worker.data import tokens
from launcher.worker.losses.base import Settings
from launcher.worker.losses.cross_entropy import CrossEntropy
from launcher.worker.models.tokenizer import load_tokenizer
from launcher.worker.tasks.classification import Classification
from launcher.worker.tasks.prompts import text_encoder
from launcher.worker.tasks.targets import OneLabel
from launcher.worker.weights.trained import Trained, label_names

REPO = Path(__file__).resolve().parent.parent.parent
TINY = REPO / "recipes" / "tiny"
ROWS = [{"text": f"The soup was number {i}. " * (1 + i % 7), "label": i % 5} for i in range(40)]

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASCEND_LAUNCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def prepare(recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare rows with the toy model; overrides are recipe words."""

    def run(*overrides: str, rows: list[dict[str, Any]] = ROWS, test: list[dict[str, Any]] = ROWS[:7]) -> Prepared:
        for name, part in (("train", rows), ("test", test)):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
        path = recipe(model={"name": str(TINY), "num_labels": 5}, data={"path": "json", "data_files": files})
        made = decide.make(load.load(path, overrides, {}), Cluster("cpu", source="a test"), plan.Options(nproc=1))
        return preparation.prepare(made, RunDir(tmp_path / "run"))

    return run


def refused(prepare: Callable[..., Prepared], *overrides: str, **rows: Any) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        prepare(*overrides, **rows)
    assert EXIT_USER == caught.value.exit_code
    assert caught.value.hint
    assert "\n" not in caught.value.what
    return caught.value


def test_rows_are_tokenised_without_padding_and_opened_from_disk(prepare, tmp_path):
    """Each row has exactly the tokenizer's own ids and its label; data.json holds facts and a sample row."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)

    prepared = prepare("data.max_length=32")
    rows = splits.open_split(prepared.train)

    expected = [tokenizer(r["text"], truncation=True, max_length=32)["input_ids"] for r in ROWS]
    assert expected == rows["input_ids"][:]
    assert [r["label"] for r in ROWS] == rows["labels"][:]
    assert list(map(len, expected)) == splits.lengths(rows).tolist()
    assert (40, sum(map(len, expected)), 32) == (prepared.train.rows, prepared.train.tokens, prepared.train.max_tokens)
    assert {
        "index": 39,
        "text": ROWS[39]["text"],
        "label": 4,
        "input_ids": expected[39],
    }.items() <= prepared.sample.items()
    assert prepared == Prepared.load(tmp_path / "run" / "data.json")


def test_the_subset_is_chosen_before_tokenising(prepare):
    """`limit` rows of `shuffle(seed)` are what is stored, the same whatever the other settings."""
    prepared = prepare("data.train.limit=10", "data.train.seed=7")
    texts = [ROWS[i] for i in _shuffled(len(ROWS), seed=7)[:10]]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    assert [tokenizer(r["text"])["input_ids"] for r in texts] == splits.open_split(prepared.train)["input_ids"][:]
    assert 10 == prepared.train.rows


def _shuffled(count: int, *, seed: int) -> list[int]:
    from datasets import Dataset

    return Dataset.from_dict({"i": range(count)}).shuffle(seed=seed)["i"][:]


def test_a_second_run_reads_the_cache_and_changed_data_does_not(prepare, cache):
    """The cache key is the data, the tokenizer and the settings: equal ones share a folder, changed ones never do."""
    first = prepare()

    assert first.train.path == prepare().train.path
    assert first.train.path != prepare("data.max_length=16").train.path
    assert first.train.path != prepare(rows=[*ROWS, {"text": "more", "label": 0}]).train.path
    assert 1 == len({path.name for path in cache.glob("random/*")})


def test_more_processes_give_the_same_rows(prepare, cache):
    """`data.num_proc` changes how long it takes and nothing else; what is half done leaves nothing behind."""
    alone = prepare()
    rows = splits.open_split(alone.train)["input_ids"][:]
    shutil.rmtree(cache / "tokens")

    environ = os.environ
    together = prepare("data.num_proc=2")

    assert os.environ is environ
    assert rows == splits.open_split(together.train)["input_ids"][:]
    assert alone.train == together.train
    assert {Path(together.train.path), Path(together.eval.path)} == set((cache / "tokens").iterdir())


def test_a_label_column_of_names_is_numbered(prepare):
    """Text labels become the numbers of model.label_names."""
    names = ["a", "b", "c", "d", "e"]
    rows = [{**row, "label": names[row["label"]]} for row in ROWS]

    prepared = prepare(f"model.label_names={names}", rows=rows, test=rows[:7])

    assert [r["label"] for r in ROWS] == splits.open_split(prepared.train)["labels"][:]
    assert tuple(names) == prepared.label_names


def test_a_tokenizer_without_pad_token_gets_one():
    """Llama 3 has none: padding uses its end-of-text token, on the side the task needs."""
    model = Model(name=str(TINY), num_labels=5)
    recipe = RecipeSpec(model=model, data=Data(path="json"))

    tokenizer = load_tokenizer(recipe, TINY)

    assert AutoTokenizer.from_pretrained(TINY).pad_token is None
    assert (tokenizer.eos_token_id, "right") == (tokenizer.pad_token_id, tokenizer.padding_side)


def test_a_text_without_tokens_still_has_something_to_pool(prepare, tmp_path):
    """An empty text is one token, never none."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    file = folder / "tokenizer.json"
    value = json.loads(file.read_text())
    value["post_processor"] = None
    file.write_text(json.dumps(value))

    prepared = prepare(f"model.name={folder}", rows=[{"text": "", "label": 0}, *ROWS])

    assert 1 == min(splits.lengths(splits.open_split(prepared.train)))


def test_damaged_tokens_are_made_again_and_it_is_said(prepare, tmp_path):
    """A flipped bit would train on other tokens; ranks that other launchers start look too."""
    first = prepare()
    file = next(Path(first.train.path).glob("*.arrow"))
    data_before = file.read_bytes()
    file.write_bytes(data_before[:900] + bytes([data_before[900] ^ 1]) + data_before[901:])

    assert not preparation.is_whole(first)
    second = prepare()

    assert [note for note in second.notes if "was damaged" in note and first.train.path in note]
    assert data_before == file.read_bytes()
    assert preparation.is_whole(second)
    assert not [note for note in prepare().notes if "damaged" in note]


def key(texts: list[str], numbers: list[int] | None = None) -> str:
    column = pa.chunked_array([pa.array(texts)])
    return tokens._content_key([column], np.array(numbers or [0] * len(texts), dtype=np.int64))


def test_different_rows_never_have_one_key(monkeypatch):
    """A NUL in a text, where one batch ends and the next begins, and labels beside lengths."""
    monkeypatch.setattr(tokens, "_KEY_ROWS", 2)
    columns = [
        ["a", "b"],
        ["a\0b"],
        ["a\0", "b"],
        ["a", "\0b"],
        ["ab", ""],
        ["", "ab"],
        ["ab"],
        ["a", "b", "c", "d"],
        ["a", "bc", "", "d"],
        ["a", "b", "cd", ""],
        ["a", "b", "", "cd"],
        ["ab", "", "c", "d"],
    ]

    assert len(columns) == len(set(map(key, columns)))
    assert key(["a", "b"], [0, 1]) != key(["a", "b"], [1, 0])
    assert key(["a"], [1]) != key(["a" * 1], [256])
    assert key(["a", "b"]) == tokens._content_key([pa.chunked_array([["a"], ["b"]])], np.zeros(2, np.int64))


def test_prompts_follow_the_chat_template_and_long_texts_are_cut_inside_it(prepare):
    """Prompt ids are the template's own; a long text loses its end, never the words after it or the answer's room."""
    words = ("model.task=causal-lm", 'data.prompt="Rate: {text} Stars?"', "data.system=Be brief.", "data.max_length=96")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    long = {"text": "The soup was fine. " * 60, "label": 1}

    prepared = prepare(*words, rows=[ROWS[0], long])
    short_ids, long_ids = splits.open_split(prepared.train)["input_ids"][:]

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Rate: {ROWS[0]['text']} Stars?"},
    ]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert expected == short_ids
    assert 96 >= len(long_ids) + max(map(len, prepared.answer_ids)) > 85
    assert tokenizer.decode(long_ids).endswith("Stars?<|end|>\n<|assistant|>\n")
    assert prepared.answer_ids == tuple(
        (*tokenizer(str(i), add_special_tokens=False)["input_ids"], 1) for i in range(5)
    )


def test_a_prompt_without_room_for_text_is_refused(prepare):
    """max_length that the prompt alone fills is an error, not an empty text."""
    error = refused(prepare, "model.task=causal-lm", f'data.prompt="{"word " * 40}{{text}}"', "data.max_length=32")

    assert "data.max_length 32 tokens" in error.what


def test_a_system_message_that_the_template_refuses_is_explained(prepare, tmp_path):
    """Templates that know no system role name the way out."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))

    error = refused(prepare, "model.task=causal-lm", "data.system=Be brief.", f"model.name={folder}")

    assert "no system role" in error.what
    assert "data.prompt" in error.hint


def test_labels_are_counted_and_doubts_are_told(prepare):
    """Rows of each label are a fact of each split; rows to evaluate that were trained on are counted."""
    prepared = prepare(rows=ROWS[:7], test=[ROWS[0], {"text": "new", "label": 1}])

    assert (2, 2, 1, 1, 1) == prepared.train.label_counts
    assert (1, 1, 0, 0, 0) == prepared.eval.label_counts
    assert any("1 of 2 evaluation rows have the text of a training row" in note for note in prepared.notes)
    assert any("split 'test': labels 2 to 4 never occur" in note for note in prepared.notes)


def test_ratings_from_1_are_numbered_alike_in_both_splits(prepare):
    """1 to 5 become 0 to 4, under their own names, and a note says so."""
    rated = [{**row, "label": row["label"] + 1} for row in ROWS]

    prepared = prepare(rows=rated, test=rated[2:4])

    assert [r["label"] for r in ROWS] == splits.open_split(prepared.train)["labels"][:]
    assert [2, 3] == splits.open_split(prepared.eval)["labels"][:]
    assert tuple("12345") == prepared.label_names
    assert any("numbered in order: 1 is 0" in note for note in prepared.notes)


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ([{"text": "x"}], "no column 'label' in split 'test', which has text: this split has no labels"),
        ([{"text": "x", "label": None}], "is empty in every row: this split has no labels"),
        ([{"text": "x", "label": -1}, {"text": "y", "label": -1}], "which marks rows without a label"),
    ],
)
def test_an_evaluation_split_without_labels_names_the_ways_out(prepare, test, said):
    """Another split, or none; and none works."""
    error = refused(prepare, test=test)

    assert said in error.what
    assert "data.eval.split" in error.hint
    assert prepare(*overrides(error.hint), test=test).eval is None


def overrides(hint: str) -> list[str]:
    """The recipe words of a hint, up to the first `or` between ways out."""
    words = shlex.split(hint.partition("; or ")[0].replace(",", " ").replace(";", " "))
    return [word for word in words if word.startswith(("data.", "model.")) and "=" in word]


def test_label_names_of_the_weights_go_before_the_rows(tmp_path):
    """A run's own names order the labels; the same names in another order are refused."""
    (tmp_path / "ascend_launch.json").write_text(json.dumps({"recipe": {"model": {"label_names": ["1", "2", "3"]}}}))
    trained, config = (
        Trained(tmp_path, None),
        Mock(architectures=["XForSequenceClassification"], id2label={0: "a"}),
    )

    def recipe(names: list[str] | None) -> RecipeSpec:
        model = Model(name="m", num_labels=3, label_names=names and tuple(names))
        return RecipeSpec(model=model, data=Data(path="json"))

    assert ("1", "2", "3") == label_names(recipe(None), trained, config)
    assert ("a", "b", "c") == label_names(recipe(["a", "b", "c"]), trained, config)
    with pytest.raises(LaunchError, match="in another order"):
        label_names(recipe(["3", "2", "1"]), trained, config)
    (tmp_path / "ascend_launch.json").unlink()
    config.id2label = {1: "b", 0: "a"}
    assert ("a", "b") == label_names(recipe(None), trained, config)
    config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    assert label_names(recipe(None), trained, config) is None


TABLE = "".join(f"{row['text'].strip()},{row['label']}\n" for row in ROWS)


@pytest.fixture
def csv(prepare, tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare one CSV file's content as training and test split."""

    def run(content: str | bytes, *words: str, name: str = "mails.csv") -> Prepared:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return prepare("data.path=csv", f"data.data_files={{train: {path}, test: {path}}}", *words)

    return run


def test_tabs_part_the_columns_of_a_tsv_file(csv):
    """By its name; commas stay in the text."""
    table = "sentence\tlabel\n" + "".join(f"good, row {i}\t{i % 5}\n" for i in range(10))

    prepared = csv(table, "data.text=sentence", name="mails.tsv")
    assert "good, row 9" == prepared.sample["text"]
    assert not [note for note in prepared.notes if "line breaks" in note]

    quoted = table.replace("good, row 3", '"good').replace("good, row 5", 'row" 5')
    assert any("1 texts hold line breaks" in n for n in csv(quoted, "data.text=sentence", name="mails.tsv").notes)


@pytest.mark.parametrize(
    ("content", "said", "fix"),
    [
        (
            "text,label\n" + TABLE + "NA,1\nnull,2\n",
            r"mails.csv:42: row 40 of split 'train' has 'NA' as its 'text', which CSV reads as a missing value (2 such rows)",
            "JSON lines",
        ),
        ('text,label\n"two\nlines",1\n,1\n' + TABLE, "mails.csv:4: row 1 of split 'train' has no 'text'", "remove"),
        (
            "text,label\n" + TABLE + "x,None\n",
            "mails.csv:42: row 40 of split 'train' has 'None' as its 'label', which CSV",
            "remove",
        ),
        ("text,label\nNA,1\nnull,0\n", "mails.csv:2: row 0 of split 'train' has 'NA' as its 'text'", "JSON lines"),
        ("text,label\nhi, there,1\n", "mails.csv:2: has 3 cells, and the first line names 2 columns", "double quotes"),
        ("text,label\nhi,1,\n", "mails.csv:2: has 3 cells", "remove the separator at the end"),
        ("text, label\n" + TABLE, "its name there is ' label'", "remove the spaces"),
        ("text,label\n1,1\n", "column 'text' is int64, not text", "no column holds text"),
        (b"PK\x03\x04" + bytes(60), "mails.csv: is an Excel or zip file", "CSV in UTF-8"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "is a pointer of Git LFS", "git lfs pull"),
        ("<!DOCTYPE html>\n<p>404, not found</p>\n", "is a web page", "download it again"),
        ("text,label\n" + TABLE + "x,\n", "mails.csv:42: row 40 of split 'train' has no 'label'", "remove"),
        (
            "text,label\n" + TABLE + "x,7\n",
            "mails.csv:42: row 40 of split 'train': column 'label' has label 7",
            "num_labels=6",
        ),
        (TABLE, "its first line is a row and no names of columns", "'text,label'"),
        ("text\tlabel\n" + TABLE.replace(",", "\t"), "its columns are separated by tabs", ".tsv"),
        ("text;label\n" + TABLE.replace(",", ";"), "its columns are separated by ';'", "commas"),
        (
            ("text,label\n" + TABLE + "这家店的汤很好喝,1\n").encode("gbk"),
            "mails.csv: is not UTF-8 at byte",
            "iconv -f GB18030 -t UTF-8",
        ),
        (("text,label\n" + TABLE).encode("utf-16"), "it may be UTF-16", "iconv -f UTF-16 -t UTF-8"),
    ],
    ids=[
        "NA",
        "no text",
        "None",
        "all NA",
        "unquoted",
        "ends in a comma",
        "a space",
        "numbers",
        "Excel",
        "LFS",
        "HTML",
        "no label",
        "label",
        "no header",
        "tabs",
        "semicolons",
        "GBK",
        "UTF-16",
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_line_and_the_way_out(csv, content, said: str, fix: str):
    with pytest.raises(LaunchError) as caught:
        csv(content)

    assert said in caught.value.what
    assert fix in caught.value.hint


def test_json_in_another_encoding_is_refused(prepare, tmp_path):
    (tmp_path / "gbk.jsonl").write_bytes('{"text": "鱼很好", "label": 0}\n'.encode("gbk"))

    error = refused(prepare, f"data.data_files.train={tmp_path}/gbk.jsonl")

    assert "gbk.jsonl: is not UTF-8 at byte" in error.what
    assert error.hint.startswith("iconv -f GB18030")


@pytest.mark.parametrize(
    ("content", "said", "fix"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b",\n', "mails.jsonl:2: cannot be read: no JSON: ", "correct that line"),
        ('{"text": "a", "label": 1},\n', "mails.jsonl:1: cannot be read: no JSON: Extra data (column 26)", "correct"),
        ('["a", 1]\n["b", 0]\n', "mails.jsonl:1: cannot be read: a row is {column: value}", "correct that line"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": "0"}\n', "has values of several kinds", "alike"),
    ],
    ids=["cut", "commas", "lists", "kinds"],
)
def test_what_is_wrong_with_json_lines_is_named_with_its_line(prepare, tmp_path, content: str, said: str, fix: str):
    """The reader counts rows, and in blocks."""
    path = tmp_path / "mails.jsonl"
    path.write_text(content)
    error = refused(prepare, f"data.data_files={{train: {path}, test: {path}}}")

    assert said in error.what
    assert fix in error.hint


def test_commas_in_a_tsv_file_are_told(csv):
    with pytest.raises(LaunchError, match="its columns are separated by commas") as caught:
        csv("text,label\n" + TABLE, name="mails.tsv")

    assert ".csv" in caught.value.hint


def test_json_read_as_csv_names_the_reader(prepare):
    assert "set data.path=json" == refused(prepare, "data.path=csv").hint


def test_a_path_of_no_file_is_not_looked_for_on_the_hub(prepare):
    assert "'nope.csv': no such file" in refused(prepare, "data.path=nope.csv", "data.data_files=null").what


def test_the_printed_conversion_makes_a_file_that_is_read(csv, tmp_path):
    """GBK, as Excel writes in China."""
    with pytest.raises(LaunchError) as caught:
        csv(("text,label\n" + TABLE + "这家店的汤很好喝,1\n").encode("gbk"))
    command, _, _ = caught.value.hint.partition(", and name")
    subprocess.run(command, shell=True, check=True)

    prepared = csv((tmp_path / "mails.utf8.csv").read_bytes(), "data.train.limit=1")
    assert 41 == prepared.eval.rows


def test_a_plain_file_as_data_path_is_read(prepare, tmp_path):
    """What is printed of a file without a test split holds rows out of it, and works."""
    (tmp_path / "mails.csv").write_text("text,label\n" + TABLE)
    error = refused(prepare, f"data.path={tmp_path}/mails.csv", "data.data_files=null")

    assert "mails.csv: has no split 'test' to evaluate on" in error.what
    assert "data.eval=0.1" in error.hint
    prepared = prepare(f"data.path={tmp_path}/mails.csv", "data.data_files=null", "data.eval=0.1")
    assert (36, 4) == (prepared.train.rows, prepared.eval.rows)
    (tmp_path / "mails.xlsx").write_bytes(b"PK")
    assert "is a spreadsheet" in refused(prepare, f"data.data_files.train={tmp_path}/mails.xlsx").what
    sheet = refused(prepare, f"data.path={tmp_path}/mails.xlsx", "data.data_files=null")
    assert "mails.xlsx: is a spreadsheet and no text" in sheet.what


def test_one_file_without_a_test_split_names_the_ways_out(prepare, tmp_path):
    """Rows held out of it, or no evaluation; a split of another name is offered."""
    file = f"data.data_files={tmp_path}/train.jsonl"
    error = refused(prepare, file)

    assert "no split 'test'; there is train" in error.what
    assert "data.eval=null" in error.hint
    assert "data.eval=0.1" in error.hint
    assert 4 == prepare(file, "data.eval=0.1").eval.rows
    valid = f"data.data_files={{train: {tmp_path}/train.jsonl, validation: {tmp_path}/test.jsonl}}"
    error = refused(prepare, "data.data_files=null", valid)
    assert "data.eval.split=validation" in error.hint
    assert 7 == prepare("data.data_files=null", valid, "data.eval.split=validation").eval.rows


def test_a_folder_of_save_to_disk_is_read(prepare, tmp_path):
    """A data set alone is its training split, with slices as of any other."""
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=3)
    words = (f"data.path={tmp_path}/saved", "data.data_files=null")

    prepared = prepare(*words, "data.train.split=train[:30]", "data.eval.split=train[30:]")

    assert (30, 10) == (prepared.train.rows, prepared.eval.rows)
    assert ROWS[29]["text"] == prepared.sample["text"]
    assert "no split 'test'; there is train" in refused(prepare, *words).what


def test_the_readers_name_is_corrected(prepare, tmp_path):
    """data.path json for a CSV file."""
    (tmp_path / "mails.csv").write_text("text,label\n" + TABLE)

    error = refused(prepare, f"data.data_files={{train: {tmp_path}/mails.csv, test: {tmp_path}/mails.csv}}")

    assert "set data.path=csv" == error.hint


def test_a_missing_column_names_those_there_are(prepare):
    """`data.text: review` on columns text and label."""
    error = refused(prepare, "data.text=review")

    assert "no column 'review' in split 'train'" in error.what
    assert "set data.text to one of text, label" == error.hint


@pytest.mark.parametrize("rows", [{"rows": []}, {"test": []}])
def test_an_empty_split_is_refused(prepare, rows):
    """No rows to train or evaluate on."""
    assert "has no rows" in refused(prepare, **rows).what


def test_a_label_outside_num_labels_is_refused(prepare):
    """Label 5 of num_labels 5: the user's ratings run from 1."""
    error = refused(prepare, rows=[{"text": "x", "label": i} for i in (1, 2, 3, 4, 5)])

    assert "has label 5" in error.what
    assert "labels run from 0 to 4" in error.what
    assert "set model.num_labels=6" == error.hint


@pytest.mark.parametrize(
    ("label", "words"),
    [(0.5, "is float64, not whole numbers"), ("good", "holds the text 'good'"), (-1, "has label -1")],
)
def test_labels_that_are_no_numbers_from_0_are_refused(prepare, label, words):
    """A score, an unknown name, a negative number."""
    assert words in refused(prepare, rows=[{"text": "x", "label": label}]).what


def test_a_row_without_text_is_refused(prepare):
    """A missing text names its row."""
    assert "row 1 of split 'train' has no 'text'" in refused(prepare, rows=[ROWS[0], {"text": None, "label": 1}]).what


def test_a_text_column_of_numbers_is_refused(prepare):
    """The label column named as the text."""
    assert "is int64, not text" in refused(prepare, "data.text=label").what


def test_a_missing_data_file_is_refused(prepare, tmp_path):
    """The file is named."""
    assert "nope.jsonl" in refused(prepare, f"data.data_files.train={tmp_path}/nope.jsonl").what


def test_a_split_that_is_not_there_is_refused(prepare):
    """The splits there are, are named."""
    error = refused(prepare, "data.train.split=training")

    assert "training" in error.what
    assert "train" in error.what


def test_broken_json_is_refused(prepare, tmp_path):
    """The reader's own words say where."""
    (tmp_path / "bad.jsonl").write_text('{"text": "x", "label": 0}\n{"text": ')

    assert "cannot be read" in refused(prepare, f"data.data_files.train={tmp_path}/bad.jsonl").what


def test_a_reader_without_files_is_refused(recipe, tmp_path):
    """`data.path: json` alone would read every file below the current folder."""
    path = recipe(model={"name": str(TINY)}, data={"path": "json", "data_files": None})
    made = decide.make(load.load(path, (), {}), Cluster("cpu", source="a test"), plan.Options(nproc=1))

    with pytest.raises(LaunchError, match="but not which"):
        preparation.prepare(made, RunDir(tmp_path / "run"))


@pytest.mark.slow
def test_a_dataset_that_cannot_be_reached_names_the_ways_out(recipe, tmp_path):
    """Offline and not in the cache: mirror or local files."""
    path = recipe(model={"name": str(TINY)}, data={"path": "Yelp/yelp_review_full", "data_files": None})
    made = decide.make(load.load(path, (), {}), Cluster("cpu", source="a test"), plan.Options(nproc=1))

    with pytest.raises(LaunchError) as caught:
        preparation.prepare(made, RunDir(tmp_path / "run"))

    assert "Yelp/yelp_review_full" in caught.value.what
    assert "HF_ENDPOINT" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/folder", "no such folder"),
        ("a/b/c", "no such folder"),
        ("org/model", "is not in this machine's cache"),
    ],
)
def test_a_model_that_is_nowhere_is_refused(prepare, name, words):
    """A path, a path that looks like an id, and an id while offline."""
    assert words in refused(prepare, f"model.name={name}").what


def test_a_folder_that_is_no_model_is_refused(prepare, tmp_path):
    """No config.json; a truncated weight file; a weight file that the index names and nobody has."""
    assert "no config.json" in refused(prepare, f"model.name={tmp_path}").what
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0")
    assert "model.safetensors: cannot be read" in refused(prepare, f"model.name={folder}").what
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "1 of its weight files are missing" in refused(prepare, f"model.name={folder}").what


def test_a_gated_model_without_access_is_explained(prepare, monkeypatch):
    """The hub's refusal becomes: accept the licence, then set the token."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def gated(*args: Any, **kwargs: Any) -> str:
        raise GatedRepoError("gated", response=Mock())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    error = refused(prepare, "model.name=meta-llama/Meta-Llama-3-8B-Instruct")

    assert "is gated" in error.what
    assert "HF_TOKEN" in error.hint


def test_code_in_a_models_folder_is_never_run(prepare, tmp_path):
    """trust_remote_code stays off: a config that asks for it is refused."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    config = {"model_type": "own", "auto_map": {"AutoConfig": "mine.Config"}, "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")

    assert "never run" in str(refused(prepare, f"model.name={folder}"))


def test_a_tokenizer_of_another_model_is_refused(prepare, tmp_path):
    """Ids beyond the embedding would crash a card with a message about indexes."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))

    assert "the tokenizer has 512 tokens" in refused(prepare, f"model.name={folder}").what


PAIRS = [{"id": i, "text": f"good food {i}", "second": "bad room", "label": ["a", "b"][: i % 3]} for i in range(12)]
MANY = ("model.problem_type=multi_label_classification", "model.num_labels=null", "model.label_names=[a, b]")


def test_two_texts_are_joined_as_the_tokenizer_joins_them(prepare):
    """With any number of labels a row, counted by label; ids and both texts are kept for predictions.jsonl."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    overrides = ("data.text_pair=second", "data.max_length=8", "predictions=[text]")

    prepared = prepare(*MANY, *overrides, rows=PAIRS, test=PAIRS[:4])
    rows, about = splits.open_split(prepared.train), splits.about(prepared.evaluated)

    pairs = [tokenizer(r["text"], r["second"], truncation="longest_first", max_length=8) for r in PAIRS]
    assert [pair["input_ids"] for pair in pairs] == rows["input_ids"][:]
    assert [list(range(i % 3)) for i in range(12)] == rows["labels"][:]
    assert (8, 4) == prepared.train.label_counts
    assert {"id": [0, 1, 2, 3], "text": [r["text"] for r in PAIRS[:4]], "text_pair": ["bad room"] * 4} == about
    assert prepared.train.about is None
    assert any("without anything between them" in note for note in prepared.notes)


def test_values_are_kept_as_they_are_written(prepare):
    rows = [{"text": "good", "label": 0.1}, {"text": "bad", "label": -3}]

    prepared = prepare("model.problem_type=regression", "model.num_labels=null", "model.label_names=[label]", rows=rows)

    assert [[0.1], [-3.0]] == splits.open_split(prepared.train)["labels"][:]
    assert ((), ("label",), 1) == (prepared.train.label_counts, prepared.label_names, prepared.num_labels)


@pytest.mark.parametrize(
    ("overrides", "good", "bad", "said"),
    [
        (MANY, ["a"], ["a", "c"], "column 'label' has the label 'c', which is none of a, b"),
        (MANY, [0], [2], "column 'label' has the label 2, which is none of a, b"),
        (("model.problem_type=regression",), [0.5] * 5, [0.5] * 2, "has 2 numbers as its 'label'"),
    ],
)
def test_a_label_that_is_none_is_refused_with_its_line(prepare, tmp_path, overrides, good, bad, said):
    """Of JSON lines that datasets reads, before anything is tokenised."""
    error = refused(prepare, *overrides, rows=[{"text": "x", "label": good}, {"text": "x", "label": bad}])

    assert error.what.startswith(f"{tmp_path / 'train.jsonl'}:2: row 1 of split 'train'")
    assert said in error.what


def test_models_with_segments_get_them_for_pairs():
    """token_type_ids say of which text a token is, and are padded like the ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[CLS]", "[SEP]", "a", "b", "c", "[UNK]"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    recipe = RecipeSpec.model_validate({"model": {"name": "m"}, "data": {"path": "p", "text_pair": "second"}})
    encode = text_encoder(recipe, tokenizer, ())
    assert encode.rows is not None

    found = encode.rows({"text": ["a b", ""], "second": ["c", "c"]})
    rows = [{key: values[i] for key, values in found.items()} | {"labels": 0} for i in range(2)]
    batch = Classification(0, 4, OneLabel(), CrossEntropy(Settings())).collate(rows)

    assert ("input_ids", "token_type_ids") == encode.columns
    assert () == encode.notes
    assert [[1, 3, 4, 2, 5, 2, 0, 0], [1, 2, 5, 2, 0, 0, 0, 0]] == batch["input_ids"].tolist()
    assert [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0]] == batch["token_type_ids"].tolist()
    assert found["input_ids"] == encode.ids([["a b", "c"], ["", "c"]])
