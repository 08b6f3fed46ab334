"""A LLaMA-Factory training file becomes a recipe that loads, and what it loses is listed."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from launcher.errors import LaunchError
from launcher.recipe import load
from launcher.recipe.importers import base
from launcher.recipe.importers import table as importers
from launcher.recipe.schema import RecipeSpec

ROWS = [
    {"instruction": "Is this review good or bad?", "input": text, "output": label}
    for text, label in [("Cold soup.", "bad"), ("Warm welcome.", "good"), ("Never again.", "bad")]
]

WRITTEN = [
    {"instruction": f"Question {i}", "input": f"{i}", "output": "I do not know." if i < 5 else f"Answer {i}."}
    for i in range(12)
]
"""Free text whose answers are partly alike, and whose two columns both differ, which is not the first thing to say."""

FULL: dict[str, Any] = {
    "model_name_or_path": "org/chat-8b",
    "trust_remote_code": True,
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "full",
    "deepspeed": "configs/ds_z3_offload_config.json",
    "dataset": "reviews",
    "template": "llama3",
    "cutoff_len": 1024,
    "max_samples": 100,
    "preprocessing_num_workers": 4,
    "output_dir": "out/reviews",
    "logging_steps": 5,
    "save_steps": 200,
    "plot_loss": True,
    "overwrite_output_dir": True,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "learning_rate": 2.0e-5,
    "num_train_epochs": 2.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "bf16": True,
    "ddp_timeout": 180000000,
    "resume_from_checkpoint": None,
    "val_size": 0.1,
    "per_device_eval_batch_size": 1,
    "eval_strategy": "steps",
    "eval_steps": 200,
    "flash_attn": "fa2",
    "report_to": "none",
    "neat_unknown": 3,
}


@pytest.fixture
def job(tmp_path: Path):
    """Write a training file with a dataset beside it."""

    def write(changes: dict[str, Any] | None = None, rows: list[dict[str, Any]] = ROWS, **entry: Any) -> Path:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "reviews.json").write_text(json.dumps(rows))
        info = {"reviews": entry or {"file_name": "reviews.json"}}
        (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
        values = {"dataset_dir": str(tmp_path / "data"), **FULL, **(changes or {})}
        path = tmp_path / "sft.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v != "drop"}, sort_keys=False))
        return path

    return write


def loaded(path: Path, tmp_path: Path, **options: Any) -> tuple[RecipeSpec, base.Imported]:
    made = importers.convert(path, **{"nproc": 8, "task": "causal-lm", **options})
    (tmp_path / "made.yaml").write_text(made.text)
    return load.load(tmp_path / "made.yaml", env={}).spec, made


def test_a_full_fine_tuning_keeps_what_maps(job, tmp_path: Path):
    """Names, numbers, strategy, batch at the ranks that are given, and the instruction as a prompt."""
    recipe, _ = loaded(job(), tmp_path)

    assert ("org/chat-8b", "causal-lm", ("bad", "good")) == (
        recipe.model.name,
        recipe.model.task,
        recipe.model.label_names,
    )
    assert "flash_attention_2" == recipe.model.attn_implementation
    assert ("input", "output") == (recipe.data.text, recipe.data.label)
    assert "Is this review good or bad?\n{text}" == recipe.data.prompt
    assert ("train[:-1]", 2) == (recipe.data.train.split, recipe.data.train.limit)
    assert ("train[-1:]", None) == (recipe.data.eval.split, recipe.data.eval.limit)
    assert (1024, 4) == (recipe.data.max_length, recipe.data.num_proc)
    assert ("zero3-offload", "bf16", 64, 2) == (
        recipe.parallel.strategy,
        recipe.parallel.precision,
        recipe.parallel.global_batch_size,
        recipe.parallel.micro_batch_size,
    )
    assert {
        "logging_steps": 5,
        "save_strategy": "steps",
        "save_steps": 200,
        "learning_rate": 2e-5,
        "num_train_epochs": 2.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "ddp_timeout": 180000000,
        "eval_strategy": "steps",
        "eval_steps": 200,
        "gradient_checkpointing": True,
        "report_to": "none",
    } == recipe.training
    assert "out/reviews" == recipe.output_dir
    assert recipe.adapter is None


def test_every_key_is_kept_or_listed_with_its_line(job, tmp_path: Path):
    """No key vanishes; each value says which line it came from."""
    path = job()
    _, made = loaded(path, tmp_path)
    lines = path.read_text().splitlines()

    left = {x.key: x for x in made.left}
    silent = {"stage", "do_train", "finetuning_type", "dataset_dir", "resume_from_checkpoint"}
    for key in FULL:
        assert key in left or f"{key} (line " in made.text or key in silent, key
    for x in made.left:
        assert lines[int(x.where) - 1].startswith(f"{x.key}:")
    assert "has no counterpart here" == left["neat_unknown"].reason
    assert "code out of a model's folder is never run" == left["trust_remote_code"].reason
    assert "chat template" in left["template"].reason


def test_lora_becomes_an_adapter(job, tmp_path: Path):
    """With LLaMA-Factory's own defaults where it says nothing."""
    lora = {
        "finetuning_type": "lora",
        "lora_rank": 16,
        "lora_target": "q_proj, v_proj",
        "lora_dropout": 0.05,
        "deepspeed": "drop",
    }
    recipe, _ = loaded(job(lora), tmp_path, nproc=1)
    plain, _ = loaded(job({"finetuning_type": "drop", "deepspeed": "drop"}), tmp_path, nproc=1)

    assert recipe.adapter is not None
    assert (16, 32, ("q_proj", "v_proj"), 0.05) == (
        recipe.adapter.r,
        recipe.adapter.lora_alpha,
        recipe.adapter.target_modules,
        recipe.adapter.lora_dropout,
    )
    assert ("ddp", 8) == (recipe.parallel.strategy, recipe.parallel.global_batch_size)
    assert plain.adapter is not None
    assert (8, 16, "all-linear") == (plain.adapter.r, plain.adapter.lora_alpha, plain.adapter.target_modules)


@pytest.mark.parametrize(
    ("zero", "strategy"),
    [
        ({"stage": 2}, "zero2"),
        ({"stage": 3}, "zero3"),
        ({"stage": 3, "offload_param": {"device": "cpu"}}, "zero3-offload"),
        ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, "zero2"),
        ({"stage": 0}, "ddp"),
    ],
)
def test_the_stage_is_read_from_deepspeeds_file_where_it_is(job, tmp_path: Path, zero: dict[str, Any], strategy: str):
    (tmp_path / "own.json").write_text(json.dumps({"zero_optimization": zero}))
    recipe, made = loaded(job({"deepspeed": "own.json"}), tmp_path)

    assert strategy == recipe.parallel.strategy
    assert any("offload" in x.reason for x in made.left) == (zero["stage"] == 2 and len(zero) == 2)


def test_a_classification_head_reads_the_text_alone(job, tmp_path: Path):
    """The instruction that all rows share is listed as lost."""
    recipe, made = loaded(job(), tmp_path, task="sequence-classification")

    assert (None, "input") == (recipe.data.prompt, recipe.data.text)
    assert any("a classification head reads the text alone" in x.reason for x in made.left)


def test_a_hubs_dataset_needs_its_labels_named(job, tmp_path: Path):
    path = job({}, hf_hub_url="org/reviews", subset="en", split="all", columns={"prompt": "text", "response": "stars"})
    with pytest.raises(LaunchError, match="nobody knows its labels"):
        importers.convert(path, nproc=1, task="causal-lm")
    recipe, _ = loaded(path, tmp_path, labels=("bad", "good"))

    assert ("org/reviews", "en", "all[:-10]", "text", "stars") == (
        recipe.data.path,
        recipe.data.name,
        recipe.data.train.split,
        recipe.data.text,
        recipe.data.label,
    )


HUB = {"hf_hub_url": "org/reviews", "columns": {"prompt": "text", "response": "stars"}}
NAMED = ("bad", "good")


@pytest.mark.parametrize(
    ("changes", "train", "held", "is_said"),
    [
        ({"max_samples": 1000, "val_size": 0.1}, ("train[:-100]", 900), "train[-100:]", False),
        ({"max_samples": 1000, "val_size": 0.0015}, ("train[:-2]", 998), "train[-2:]", False),
        ({"max_samples": "drop", "val_size": 200}, ("train[:-200]", None), "train[-200:]", False),
        ({"max_samples": "drop", "val_size": 0.1}, ("train[:90%]", None), "train[90%:]", False),
        ({"max_samples": "drop", "val_size": 0.001}, ("train[:99%]", None), "train[99%:]", True),
        ({"max_samples": "drop", "val_size": 0.015}, ("train[:98%]", None), "train[98%:]", True),
    ],
)
def test_as_many_rows_are_held_out_as_there(job, tmp_path: Path, changes, train, held, is_said: bool):
    """max_samples counts the rows that train and those held out; a share that no split of unknown size has is said."""
    recipe, made = loaded(job(changes, **HUB), tmp_path, labels=NAMED)

    assert train == (recipe.data.train.split, recipe.data.train.limit)
    assert (held, None) == (recipe.data.eval.split, recipe.data.eval.limit)
    assert is_said == any("whole percents" in x.reason for x in made.left)


def test_rows_are_held_out_of_all_files_together(job, tmp_path: Path):
    """max_samples is of each set."""
    path = job({"dataset": "reviews,more", "max_samples": 2, "val_size": 0.5})
    info = {"reviews": {"file_name": "reviews.json"}, "more": {"file_name": "reviews.json"}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    recipe, _ = loaded(path, tmp_path)

    assert ("train[:-2]", 2, "train[-2:]") == (
        recipe.data.train.split,
        recipe.data.train.limit,
        recipe.data.eval.split,
    )


@pytest.mark.parametrize(
    "held",
    [
        {"file_name": "reviews.json"},
        {"hf_hub_url": "org/others", "columns": HUB["columns"]},
        {"hf_hub_url": "org/reviews", "columns": {"prompt": "other", "response": "stars"}},
    ],
    ids=["file", "id", "columns"],
)
def test_rows_held_out_of_another_make_are_refused(job, tmp_path: Path, held: dict[str, Any]):
    """They would not be read as the others are, or not at all."""
    path = job({"val_size": "drop", "eval_dataset": "held"})
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"reviews": HUB, "held": held}))

    with pytest.raises(LaunchError, match="held and reviews are of different make"):
        importers.convert(path, nproc=1, task="causal-lm", labels=NAMED)


def test_another_split_of_the_same_id_is_held_out(job, tmp_path: Path):
    path = job({"val_size": "drop", "eval_dataset": "held"})
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"reviews": HUB, "held": {**HUB, "split": "test"}}))
    recipe, _ = loaded(path, tmp_path, labels=NAMED)

    assert ("train", 100, "test", 100) == (
        recipe.data.train.split,
        recipe.data.train.limit,
        recipe.data.eval.split,
        recipe.data.eval.limit,
    )


def test_rows_that_cannot_be_seen_leave_no_guess_at_the_text(job):
    """An instruction that all share, and a text in another column, or the text itself: nobody knows."""
    entry = {**HUB, "columns": {"prompt": "question", "query": "review", "response": "answer"}}

    with pytest.raises(LaunchError, match="in 'question' or in 'review'"):
        importers.convert(job({}, **entry), nproc=1, task="causal-lm", labels=NAMED)


@pytest.mark.parametrize("instruction", [{}, {"instruction": None}, {"instruction": ""}], ids=["none", "null", "empty"])
def test_no_instruction_is_no_prompt(job, tmp_path: Path, instruction: dict[str, Any]):
    rows = [{"input": row["input"], "output": row["output"], **instruction} for row in ROWS]
    recipe, _ = loaded(job({}, rows), tmp_path)

    assert (None, "input") == (recipe.data.prompt, recipe.data.text)


def test_what_is_not_read_of_an_entry_is_listed(job, tmp_path: Path):
    """And a system prompt of which a recipe can keep no single one."""
    rows = [{**row, "system": str(i)} for i, row in enumerate(ROWS)]
    columns = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}
    _, made = loaded(job({}, rows, file_name="reviews.json", columns=columns, num_samples=5, folder="x"), tmp_path)
    said = " ".join(x.reason for x in made.left)

    assert "'num_samples' of reviews" in said and "'folder' of reviews" in said
    assert "'system': a recipe has one for all rows" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stage": "dpo"}, "stage dpo is another way to train"),
        ({"finetuning_type": "freeze"}, "finetuning_type freeze has no counterpart"),
        ({"dataset": "other"}, "has no 'other'"),
        ({"model_name_or_path": "drop"}, "names no model_name_or_path"),
        ({"deepspeed": "mine.json"}, "tells no ZeRO stage"),
        ({"learning_rate": -1}, "its values make no recipe"),
        ({"dataset_dir": "/nowhere", "dataset": "drop"}, "names no dataset"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_become_a_recipe_is_refused_with_its_line(job, changes: dict[str, Any], said: str):
    with pytest.raises(LaunchError, match=said):
        importers.convert(job(changes), nproc=1, task="causal-lm")


@pytest.mark.parametrize(
    ("rows", "entry", "said"),
    [
        (
            [{"instruction": "Write.", "input": "", "output": f"text {i}"} for i in range(100)],
            {},
            "100 different responses",
        ),
        (
            [{"instruction": f"Q{i}", "input": "x", "output": f"A{i}"} for i in range(5)],
            {},
            "5 different responses in 5 rows, 5 of them once",
        ),
        (WRITTEN, {}, "8 different responses in 12 rows, 7 of them once"),
        ([{**row, "output": "A long answer. " * 9} for row in ROWS * 2], {}, "a response is a text: 'A long"),
        ([{**row, "output": "First.\nSecond."} for row in ROWS * 2], {}, "a response is a text: 'First"),
        ([{**row, "output": "bad"} for row in ROWS], {}, "every row has the response 'bad'"),
        ([{**row, "instruction": f"Question {i}"} for i, row in enumerate(ROWS)], {}, "differ both in"),
        (ROWS, {"file_name": "reviews.json", "formatting": "sharegpt"}, "are conversations"),
        (
            [
                {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": f"Answer {i}"}]}
                for i in range(9)
            ],
            {"file_name": "reviews.json", "formatting": "sharegpt"},
            "9 different responses in 9 rows, 9 of them once",
        ),
        (ROWS, {"file_name": "gone.json"}, "no such file"),
        (ROWS, {"file_name": "."}, "is a folder"),
    ],
    ids=[
        "generation",
        "few rows",
        "some answers alike",
        "long answers",
        "lines",
        "one label",
        "two columns",
        "sharegpt",
        "sharegpt that writes",
        "missing file",
        "folder",
    ],
)
def test_data_that_are_no_labels_are_refused(job, rows, entry, said: str):
    with pytest.raises(LaunchError, match=said):
        importers.convert(job({}, rows, **entry), nproc=1, task="causal-lm")


def test_a_value_that_makes_no_recipe_is_named_with_its_own_line(job):
    """The recipe is in no file yet, and its lines are no place to look."""
    file = job({"seed": -1}, ROWS)
    line = file.read_text().splitlines().index("seed: -1") + 1

    with pytest.raises(LaunchError, match=rf"{re.escape(str(file))}:{line}: training.seed: -1 must be"):
        importers.convert(file, nproc=1, task="causal-lm")


@pytest.mark.parametrize("key", ["disable_shuffling", "use_asft_loss"])
def test_other_keys_that_change_what_is_learned_are_refused(job, key: str):
    with pytest.raises(LaunchError, match=f"{key}: 1 changes what is learned"):
        importers.convert(job({key: 1}, ROWS), nproc=1, task="causal-lm")


def test_no_value_can_break_out_of_its_line(job, tmp_path: Path):
    """Names with quotes, comments and newlines come back as they were."""
    nasty = 'x: {} # "\n- 中文'
    rows = [{**row, "instruction": nasty} for row in ROWS]
    named = tmp_path / "a\nmodel: {}.yaml"
    job({"output_dir": nasty}, rows).rename(named)
    recipe, _ = loaded(named, tmp_path)

    assert nasty == recipe.output_dir
    assert f"{nasty}\n{{text}}" == recipe.data.prompt


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"per_device_train_batch_size": "two"}, "expected a whole number above 0, got 'two'"),
        ({"gradient_accumulation_steps": 0}, "expected a whole number above 0, got 0"),
        ({"lora_rank": "x", "finetuning_type": "lora"}, "lora_rank: expected a whole number"),
        ({"max_samples": [1]}, "max_samples: expected a whole number"),
        ({"val_size": "some"}, "val_size: expected a number"),
        ({"warmup_ratio": "x"}, "warmup_ratio: expected a number"),
        ({"dataset": 5}, "dataset: expected text or a list of texts"),
        ({"lora_target": [1], "finetuning_type": "lora"}, "lora_target: expected text or a list"),
        ({"additional_target": {"a": 1}, "finetuning_type": "lora"}, "additional_target: expected text"),
        ({"flash_attn": [1], "deepspeed": [1]}, "tells no ZeRO stage"),
        ({"deepspeed": {"zero_optimization": 3}}, "is not a config of DeepSpeed"),
        ({"deepspeed": {"zero_optimization": {"stage": "x"}}}, "stage 'x' is none of"),
        ({"deepspeed": {"zero_optimization": {"stage": [3]}}}, "stage [3] is none of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_value_of_the_wrong_kind_is_named_with_its_line(job, changes: dict[str, Any], said: str):
    path = job(changes)
    with pytest.raises(LaunchError) as caught:
        importers.convert(path, nproc=1, task="causal-lm")

    assert said in caught.value.what
    where = re.match(rf"{path}:(\d+): ", caught.value.what)
    assert where is not None
    assert path.read_text().splitlines()[int(where[1]) - 1].startswith(tuple(changes))


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ("[1]", "is not a mapping"),
        ("[" * 100_000, "cannot be read"),
        ('{"reviews": [1]}', "not an entry"),
        ('{"reviews": {"columns": [1]}}', "not an entry"),
        ('{"reviews": {"columns": {"prompt": 3}}}', "not an entry"),
        ('{"reviews": {"file_name": 3}}', "not an entry"),
        ("{}", "has no 'reviews'"),
    ],
)
def test_an_odd_dataset_info_is_refused(job, tmp_path: Path, info: str, said: str):
    path = job()
    (tmp_path / "data" / "dataset_info.json").write_text(info)
    with pytest.raises(LaunchError, match=said):
        importers.convert(path, nproc=1, task="causal-lm")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('{"a": 1}', "row 1 has no"),
        ("5", "row 1 is not a JSON object"),
        ('[{"instruction": ["a"], "output": "b"}]', "is not text"),
    ],
)
def test_odd_rows_are_refused(job, tmp_path: Path, rows: str, said: str):
    path = job()
    (tmp_path / "data" / "reviews.json").write_text(rows)
    with pytest.raises(LaunchError, match=said):
        importers.convert(path, nproc=1, task="causal-lm")


def test_a_date_is_kept_as_text(job, tmp_path: Path):
    """YAML reads 2026-11-27 as one."""
    path = job()
    path.write_text(path.read_text().replace("output_dir: out/reviews", "output_dir: 2026-11-27"))

    assert "2026-11-27" == loaded(path, tmp_path)[0].output_dir


def test_a_missing_file_is_no_recipe(tmp_path: Path):
    with pytest.raises(LaunchError, match="no such file") as caught:
        importers.convert(tmp_path / "none.yaml", nproc=1, task="causal-lm")
    assert "name a training file" == caught.value.hint


def test_labels_that_are_named_must_be_the_datas(job, tmp_path: Path):
    """A response that --labels does not name is refused with its row; a label that no row has is listed."""
    with pytest.raises(LaunchError, match="row 2 has the response 'good', which --labels does not name"):
        importers.convert(job(), nproc=1, task="causal-lm", labels=("bad", "fine"))
    recipe, made = loaded(job(), tmp_path, labels=("bad", "good", "odd"))

    assert ("bad", "good", "odd") == recipe.model.label_names
    assert any("no row of reviews has the label 'odd'" in x.reason for x in made.left)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_of_tables_are_looked_at(job, tmp_path: Path, kind: str):
    """Labels are read from them, and texts refused."""

    def table(rows: list[dict[str, str]]) -> Path:
        path = job({}, file_name=f"reviews.{kind}")
        if kind == "csv":
            with (tmp_path / "data" / "reviews.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        else:
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "reviews.parquet")
        return path

    recipe, _ = loaded(table(ROWS), tmp_path)
    assert (("bad", "good"), kind) == (recipe.model.label_names, recipe.data.path)
    with pytest.raises(LaunchError, match="8 different responses in 12 rows"):
        importers.convert(table(WRITTEN), nproc=1, task="causal-lm")
    with pytest.raises(LaunchError, match="row 1 has the response 'I do not know"):
        importers.convert(table(WRITTEN), nproc=1, task="causal-lm", labels=("bad", "good"))


def test_few_rows_are_labels_where_they_are_named(job, tmp_path: Path):
    """Two rows with two responses may be either; --labels says which."""
    path = job({"val_size": "drop", "eval_strategy": "drop"}, ROWS[:2])
    with pytest.raises(LaunchError, match="to write") as caught:
        importers.convert(path, nproc=1, task="causal-lm")

    assert "--labels" in caught.value.hint
    assert ("bad", "good") == loaded(path, tmp_path, labels=("bad", "good"))[0].model.label_names


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_bit", 4),
        ("quantization_bit", 8),
        ("adapter_name_or_path", "saves/lora"),
        ("packing", True),
        ("neat_packing", True),
        ("train_on_prompt", True),
        ("use_galore", True),
        ("loraplus_lr_ratio", 16.0),
        ("pissa_init", True),
        ("rope_scaling", "linear"),
        ("pure_bf16", True),
        ("resume_from_checkpoint", "saves/checkpoint-5"),
        ("new_special_tokens", "<a>"),
        ("mix_strategy", "interleave_under"),
    ],
)
def test_a_key_that_changes_what_is_learned_is_kept_or_refused(job, key: str, value: Any):
    """With its line and the way on, which is to leave it out; what is off is no obstacle."""
    path = job({key: value})
    with pytest.raises(LaunchError, match=f"{key}: .* changes what is learned") as caught:
        importers.convert(path, nproc=1, task="causal-lm")
    line = int(caught.value.what.removeprefix(f"{path}:").partition(":")[0])

    assert path.read_text().splitlines()[line - 1].startswith(f"{key}:")
    assert "remove that line" in caught.value.hint
    importers.convert(
        job({key: None if key in ("quantization_bit", "mix_strategy") else False}), nproc=1, task="causal-lm"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"save_steps": 200}, {"save_strategy": "steps", "save_steps": 200}),
        ({"save_steps": "drop"}, {"save_strategy": "steps", "save_steps": 500}),
        ({"save_steps": 200, "save_strategy": "epoch"}, {"save_strategy": "epoch"}),
        ({"save_steps": "drop", "save_strategy": False}, {"save_strategy": "no"}),
        ({"warmup_ratio": 0.1, "warmup_steps": 20}, {"warmup_steps": 20, "save_steps": 200}),
        ({"warmup_ratio": 0.1, "warmup_steps": 0}, {"warmup_steps": 0.1, "save_steps": 200}),
    ],
)
def test_schedules_are_transformers_own(job, tmp_path: Path, given: dict[str, Any], expected: dict[str, Any]):
    """save_steps alone saves by steps there, and every 500 where nothing is said; a warmup in steps goes before a share."""
    recipe, _ = loaded(job(given), tmp_path)

    found = {k: v for k, v in recipe.training.items() if k.startswith(("save_s", "warmup"))}
    assert expected.items() <= found.items()
    assert ("save_steps" in expected) == ("save_steps" in found)


@pytest.mark.parametrize(
    "section", [{"optimizer": {"type": "SGD"}}, {"gradient_clipping": 0.3}, {"scheduler": {"type": "WarmupLR"}}]
)
def test_a_deepspeed_file_that_changes_what_is_learned_is_refused(job, tmp_path: Path, section: dict[str, Any]):
    """Unless it leaves those to the training file by `auto`."""
    (tmp_path / "own.json").write_text(json.dumps({"zero_optimization": {"stage": 2}, **section}))
    with pytest.raises(LaunchError, match=f"{next(iter(section))} changes what is learned"):
        importers.convert(job({"deepspeed": "own.json"}), nproc=1, task="causal-lm")
    (tmp_path / "own.json").write_text(json.dumps({"zero_optimization": {"stage": 2}, next(iter(section)): "auto"}))

    assert "zero2" == loaded(job({"deepspeed": "own.json"}), tmp_path)[0].parallel.strategy


def test_earlier_turns_are_refused_with_their_row(job):
    """They are part of what the model reads; a column without any is listed."""
    columns = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
    entry = {"file_name": "reviews.json", "columns": columns}
    turns = [{**row, "history": [["a", "b"]] if i == 1 else []} for i, row in enumerate(ROWS)]

    with pytest.raises(LaunchError, match="row 2 has earlier turns in 'history'"):
        importers.convert(job({}, turns, **entry), nproc=1, task="causal-lm")
    importers.convert(job({}, [{**row, "history": []} for row in turns], **entry), nproc=1, task="causal-lm")


def test_no_reading_of_a_value_is_silent(job, tmp_path: Path):
    """An attention that is not known, and rows held out twice."""
    path = job(
        {"flash_attn": "fa9", "eval_dataset": "reviews", "quantization_method": "bnb", "freeze_trainable_layers": 2}
    )
    _, made = loaded(path, tmp_path)

    assert {"flash_attn", "val_size", "quantization_method", "freeze_trainable_layers"} <= {x.key for x in made.left}


def test_arguments_that_would_do_nothing_are_listed_and_not_kept(job, tmp_path: Path):
    """LLaMA-Factory passes over them in silence; here they would be refused, and the file with them."""
    changes = {
        "save_strategy": "epoch",
        "run_name": "mine",
        "optim": "adamw_8bit",
        "lr_scheduler_kwargs": {"min_lr": 1e-6},
    }
    recipe, made = loaded(job(changes), tmp_path)

    left = {x.key: x.reason for x in made.left}
    assert not {"save_steps", "run_name", "optim", "lr_scheduler_kwargs"} & recipe.training.keys()
    assert "epoch" == recipe.training["save_strategy"]
    assert "no effect" in left["save_steps"]
    assert "bitsandbytes" in left["optim"]
    assert "linear" not in left["lr_scheduler_kwargs"]
    assert "it names the run for" in left["run_name"]
