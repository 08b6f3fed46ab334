"""Data is checked and tokenised once, before any rank; each mistake is one sentence with the value and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from transformers import AutoTokenizer

from launcher import plan, spec
from launcher.cluster.model import Cluster
from launcher.errors import EXIT_USER, LaunchError
from launcher.rundir import RunDir
from launcher.worker import data
from launcher.worker import model as models

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
def prepare(recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., data.Prepared]:
    """Prepare rows with the toy model; overrides are recipe words."""

    def run(*overrides: str, rows: list[dict[str, Any]] = ROWS, test: list[dict[str, Any]] = ROWS[:7]) -> data.Prepared:
        for name, part in (("train", rows), ("test", test)):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
        path = recipe(model={"name": str(TINY), "num_labels": 5}, data={"path": "json", "data_files": files})
        made = plan.make(spec.load(path, overrides, {}), Cluster("cpu", source="a test"), plan.Options(nproc=1))
        return data.prepare(made, RunDir(tmp_path / "run"))

    return run


def refused(prepare: Callable[..., data.Prepared], *overrides: str, **rows: Any) -> LaunchError:
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
    rows = data.open_split(prepared.train)

    expected = [tokenizer(r["text"], truncation=True, max_length=32)["input_ids"] for r in ROWS]
    assert expected == rows["input_ids"][:]
    assert [r["label"] for r in ROWS] == rows["labels"][:]
    assert list(map(len, expected)) == data.lengths(rows).tolist()
    assert (40, sum(map(len, expected)), 32) == (prepared.train.rows, prepared.train.tokens, prepared.train.max_tokens)
    assert {
        "index": 39,
        "text": ROWS[39]["text"],
        "label": 4,
        "input_ids": expected[39],
    }.items() <= prepared.sample.items()
    assert prepared == data.Prepared.load(tmp_path / "run" / "data.json")


def test_the_subset_is_chosen_before_tokenising(prepare):
    """`limit` rows of `shuffle(seed)` are what is stored, the same whatever the other settings."""
    prepared = prepare("data.train.limit=10", "data.train.seed=7")
    texts = [ROWS[i] for i in _shuffled(len(ROWS), seed=7)[:10]]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    assert [tokenizer(r["text"])["input_ids"] for r in texts] == data.open_split(prepared.train)["input_ids"][:]
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
    rows = data.open_split(alone.train)["input_ids"][:]
    shutil.rmtree(cache / "tokens")

    together = prepare("data.num_proc=2")

    assert rows == data.open_split(together.train)["input_ids"][:]
    assert alone.train == together.train
    assert {Path(together.train.path), Path(together.eval.path)} == set((cache / "tokens").iterdir())


def test_a_label_column_of_names_is_numbered(prepare):
    """Text labels become the numbers of model.label_names."""
    names = ["a", "b", "c", "d", "e"]
    rows = [{**row, "label": names[row["label"]]} for row in ROWS]

    prepared = prepare(f"model.label_names={names}", rows=rows, test=rows[:7])

    assert [r["label"] for r in ROWS] == data.open_split(prepared.train)["labels"][:]
    assert tuple(names) == prepared.label_names


def test_a_tokenizer_without_pad_token_gets_one():
    """Llama 3 has none: padding uses its end-of-text token, on the side the task needs."""
    model = spec.Model(name=str(TINY), num_labels=5)
    recipe = spec.RecipeSpec(model=model, data=spec.Data(path="json"))

    tokenizer = models.load_tokenizer(recipe, TINY)

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

    assert 1 == min(data.lengths(data.open_split(prepared.train)))


# -- causal-lm


def test_prompts_follow_the_chat_template_and_long_texts_are_cut_inside_it(prepare):
    """Prompt ids are the template's own; a long text loses its end, never the words after it or the answer's room."""
    words = ("model.task=causal-lm", 'data.prompt="Rate: {text} Stars?"', "data.system=Be brief.", "data.max_length=96")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    long = {"text": "The soup was fine. " * 60, "label": 1}

    prepared = prepare(*words, rows=[ROWS[0], long])
    short_ids, long_ids = data.open_split(prepared.train)["input_ids"][:]

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


# -- mistakes


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
    made = plan.make(spec.load(path, (), {}), Cluster("cpu", source="a test"), plan.Options(nproc=1))

    with pytest.raises(LaunchError, match="but not which"):
        data.prepare(made, RunDir(tmp_path / "run"))


def test_a_dataset_that_cannot_be_reached_names_the_ways_out(recipe, tmp_path):
    """Offline and not in the cache: mirror or local files."""
    path = recipe(model={"name": str(TINY)}, data={"path": "Yelp/yelp_review_full", "data_files": None})
    made = plan.make(spec.load(path, (), {}), Cluster("cpu", source="a test"), plan.Options(nproc=1))

    with pytest.raises(LaunchError) as caught:
        data.prepare(made, RunDir(tmp_path / "run"))

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

    assert "never run" in refused(prepare, f"model.name={folder}").hint


def test_a_tokenizer_of_another_model_is_refused(prepare, tmp_path):
    """Ids beyond the embedding would crash a card with a message about indexes."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))

    assert "the tokenizer has 512 tokens" in refused(prepare, f"model.name={folder}").what
