"""A training with ms-swift becomes a recipe that trains the same, or is refused with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from launcher.cli import cli
from launcher.errors import LaunchError
from launcher.recipe import load
from launcher.recipe.importers import base
from launcher.recipe.importers import table as importers
from launcher.recipe.schema import RecipeSpec

SFT = "sft"
CHATS = [{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]}]
GIVEN = {"model": "org/chat-8b", "dataset": "chats.jsonl", "max_length": "2048"}
Written = Callable[..., tuple[RecipeSpec, base.Imported]]


@pytest.fixture
def imported(tmp_path: Path) -> Written:
    """Import a script of arguments: `swift sft` with these and those that every script has."""

    def convert(given: dict[str, str] | None = None, *, before: str = "", command: str = "swift sft", **options: Any):
        arguments = {**GIVEN, **(given or {})}
        lines = [f"{before}{command}", *(f"  --{key} {value}" for key, value in arguments.items() if value is not None)]
        return read(tmp_path, "train.sh", " \\\n".join(lines), **options)

    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHATS), encoding="utf-8")
    return convert


def read(folder: Path, name: str, text: str, **options: Any) -> tuple[RecipeSpec, base.Imported]:
    path = folder / name
    path.write_text(text + "\n", encoding="utf-8")
    made = importers.convert(path, **{"nproc": None, "task": SFT, **options})
    (folder / "recipe.yaml").write_text(made.text, encoding="utf-8")
    return load.load(folder / "recipe.yaml", env={}).spec, made


def test_what_ms_swift_does_by_itself_is_written_out(imported: Written):
    spec, made = imported()
    assert (8, 32, 0.05, "all-linear") == (
        spec.adapter.r,
        spec.adapter.lora_alpha,
        spec.adapter.lora_dropout,
        spec.adapter.target_modules,
    )
    expected = {
        "learning_rate": 1e-4,
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "lr_scheduler_type": "cosine",
        "gradient_checkpointing": True,
        "save_strategy": "steps",
        "save_steps": 500,
    }
    assert expected == {key: spec.training[key] for key in expected}
    assert ("drop", None, "modelscope") == (spec.data.too_long, spec.data.eval, spec.model.hub)
    assert (16, 1, "ddp", "auto") == (
        spec.parallel.global_batch_size,
        spec.parallel.micro_batch_size,
        spec.parallel.strategy,
        spec.parallel.precision,
    )
    assert any("ends an answer" in left.reason for left in made.left)


def test_full_training_has_another_learning_rate(imported: Written):
    spec, _ = imported({"tuner_type": "full"})
    assert (None, 1e-5) == (spec.adapter, spec.training["learning_rate"])


@pytest.mark.parametrize(
    ("before", "given", "nproc", "size"),
    [
        ("", {}, None, 16),
        ("", {}, 3, 18),
        ("NPROC_PER_NODE=4 ", {}, None, 16),
        ("n=2\nNNODES=2 NPROC_PER_NODE=$n ", {"gradient_accumulation_steps": "$(expr 32 / $n)"}, None, 64),
        ("", {"per_device_train_batch_size": "2", "gradient_accumulation_steps": "4"}, 8, 64),
        ("", {"sequence_parallel_size": "4", "gradient_accumulation_steps": "4"}, 8, 8),
    ],
)
def test_the_batch_is_counted_over_the_ranks_of_the_script(
    imported: Written, before: str, given: dict[str, str], nproc: int | None, size: int
):
    spec, _ = imported(given, before=before, nproc=nproc)
    assert size == spec.parallel.global_batch_size


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"torch_dtype": "bfloat16"}, "bf16"),
        ({"torch_dtype": "float32"}, "fp16"),
        ({"torch_dtype": "float32", "fp16": "false"}, "fp32"),
        ({"torch_dtype": "float16", "bf16": "true"}, "bf16"),
    ],
)
def test_precision(imported: Written, given: dict[str, str], expected: str):
    """fp32 weights are trained with fp16 there, unless fp16 is off."""
    assert expected == imported(given)[0].parallel.precision


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"deepspeed": "zero0"}, "ddp"),
        ({"deepspeed": "zero2"}, "zero2"),
        ({"deepspeed": "zero3_offload"}, "zero3-offload"),
        ({"deepspeed": '\'{"zero_optimization": {"stage": 1}}\''}, "zero1"),
        ({"fsdp": "fsdp2"}, "fsdp2"),
    ],
)
def test_strategy(imported: Written, given: dict[str, str], expected: str):
    assert expected == imported(given)[0].parallel.strategy


def test_data_sets_with_limits_columns_and_evaluation(imported: Written, tmp_path: Path):
    (tmp_path / "qa.jsonl").write_text('{"ask": "What?", "solution": "That."}\n', encoding="utf-8")
    spec, _ = imported(
        {
            "dataset": "chats.jsonl#5 hf::org/more:zh#7 qa.jsonl",
            "use_hf": "true",
            "columns": '\'{"ask": "query"}\'',
            "val_dataset": "chats.jsonl",
            "system": "'Be brief.'",
        }
    )
    chats, more, pairs = spec.data.sets
    assert (str(tmp_path / "chats.jsonl"), 5) == (chats.path, chats.limit)
    assert ("org/more", "zh", 7) == (more.path, more.name, more.limit)
    assert ("query-response", {"query": "ask"}) == (pairs.format, pairs.columns)
    assert (["chats"], "Be brief.", "huggingface") == (list(spec.data.eval.sets), spec.data.system, spec.model.hub)
    assert ("steps", 500) == (spec.training["eval_strategy"], spec.training["eval_steps"])


def test_columns_are_seen_in_the_first_row(imported: Written, tmp_path: Path):
    (tmp_path / "qa.csv").write_text("problem,answer_key,level\nWhat?,That.,1\n", encoding="utf-8")
    spec, _ = imported({"dataset": "qa.csv"})
    assert {"query": "problem", "response": "answer_key"} == spec.data.columns


def test_pt_trains_every_token_of_texts(imported: Written, tmp_path: Path):
    (tmp_path / "texts.jsonl").write_text('{"content": "A text."}\n', encoding="utf-8")
    spec, _ = imported({"dataset": "texts.jsonl", "packing": "true"}, command="swift pt")
    assert ("text", {"text": "content"}, True) == (spec.data.format, spec.data.columns, spec.data.packing)


def test_an_argument_file_is_read_as_a_script_is(tmp_path: Path):
    given = {**GIVEN, "dataset": ["org/a", "org/b"], "loss_scale": "last_round", "ENV": {"NPROC_PER_NODE": 2}}
    spec, _ = read(tmp_path, "args.yaml", yaml.safe_dump({**given, "per_device_train_batch_size": 4}))
    assert (["org/a", "org/b"], "last", 16) == (
        [one.path for one in spec.data.sets],
        spec.data.train_on,
        spec.parallel.global_batch_size,
    )


def test_the_models_own_length_where_none_is_given(imported: Written, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 4096}', encoding="utf-8")
    spec, _ = imported({"model": str(tmp_path / "model"), "max_length": None})
    assert (4096, "huggingface") == (spec.data.max_length, spec.model.hub)


@pytest.mark.parametrize(
    ("given", "line", "said"),
    [
        ({"tuner_type": "adalora"}, 5, "adalora has no counterpart"),
        ({"quant_bits": "4"}, 5, "not quantized"),
        ({"freeze_vit": "true"}, 5, "see or hear"),
        ({"dataset": "swift/self-cognition#500"}, 3, "names in them"),
        ({"loss_scale": "hermes"}, 5, "weighs tokens"),
        ({"task_type": "seq_cls"}, 5, "seq_cls"),
        ({"truncation_strategy": "left"}, 5, "'left' has no counterpart"),
        ({"dataset_shuffle": "false"}, 5, "shuffled"),
        ({"optim": "adamw_bnb_8bit"}, 5, "bitsandbytes"),
        ({"max_epochs": "1"}, 5, "before its schedule does"),
        ({"max_length": None}, 2, "the model's own"),
        ({"output_dir": "$HOME/out"}, 5, r"\$HOME is known only when the script runs"),
        ({"rlhf_type": "dpo"}, 5, "has no such argument"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_changes_the_result_is_refused_with_its_line(
    imported: Written, given: dict[str, str], line: int, said: str
):
    with pytest.raises(LaunchError, match=rf"train\.sh:{line}: .*{said}"):
        imported(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"attn_impl": "a b"}, "attn_impl: expected text, got"),
        ({"max_epochs": "many"}, "max_epochs: expected a number, got 'many'"),
        ({"lr_scheduler_kwargs": "'{'"}, "lr_scheduler_kwargs: is not JSON"),
        ({"columns": "3"}, "columns: expected a mapping, got 3"),
        ({"lora_rank": "high"}, "lora_rank: expected a number, at least 0, got 'high'"),
        ({"dataset": "'chats.jsonl' 'org/a#x'"}, "#x is no number of rows"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_values_of_another_kind_are_refused(imported: Written, given: dict[str, str], said: str):
    with pytest.raises(LaunchError, match=r"train\.sh:\d: ") as caught:
        imported(given)
    assert said in str(caught.value)


@pytest.mark.parametrize("command", ["megatron sft", "swift rlhf"])
def test_other_commands_are_refused_with_what_runs_them(imported: Written, tmp_path: Path, command: str):
    with pytest.raises(LaunchError, match=f":1: {command} is another way to train") as caught:
        imported(command=command, nproc=8)
    assert f"ascend-launch --nproc 8 -- env NPROC_PER_NODE=8 bash {tmp_path / 'train.sh'}" in str(caught.value)


def test_a_variable_that_ms_swift_reads_is_refused(imported: Written):
    with pytest.raises(LaunchError, match=":1: MAX_PIXELS: a variable"):
        imported(before="MAX_PIXELS=1003520 ")


def test_a_script_of_two_trainings_is_refused(tmp_path: Path):
    text = "swift sft --model a --dataset b --max_length 8\nswift pt --model a --dataset b\n"
    with pytest.raises(LaunchError, match=":2: a second training"):
        read(tmp_path, "two.sh", text)


def test_the_command_writes_the_recipe_and_what_it_leaves(imported: Written, tmp_path: Path):
    imported({"use_liger_kernel": "true"})
    done = CliRunner().invoke(cli, ["recipes", "import", str(tmp_path / "train.sh"), "--nproc", "2"])
    assert 0 == done.exit_code, done.output
    assert "global_batch_size: 16" in done.stdout
    assert "train.sh:5: use_liger_kernel is not kept: it runs on GPUs only" in done.stderr


STOPS = {"early_stop_interval": "3", "split_dataset_ratio": "0.1"}


def test_early_stopping_goes_by_the_loss_and_keeps_the_last_model(imported: Written):
    spec, _ = imported(STOPS)
    assert 3 == spec.early_stopping.patience
    assert (False, "loss") == (spec.training["load_best_model_at_end"], spec.training["metric_for_best_model"])
    assert imported({"early_stop_interval": "0"})[0].early_stopping is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split_dataset_ratio": "0"}, "nothing is evaluated"),
        ({"eval_steps": "50"}, "counts saves"),
        ({"eval_strategy": "epoch"}, "counts saves"),
        ({"predict_with_generate": "true"}, "goes by rouge-l"),
        ({"metric_for_best_model": "token_acc"}, "metric_for_best_model: .*token_acc"),
    ],
)
def test_early_stopping_without_a_counterpart_is_refused(imported: Written, given: dict[str, str], message: str):
    with pytest.raises(LaunchError, match=rf"train.sh:\d+: .*{message}"):
        imported({**STOPS, **given})


WRITES = {"predict_with_generate": "true", "split_dataset_ratio": "0.1"}
OF_TEXTS = ("rouge1", "rouge2", "rougeL", "bleu")


def test_texts_are_written_as_ms_swift_writes_them(imported: Written):
    """64 tokens at most, the likeliest ones; its num_beams does nothing in an evaluation."""
    spec, made = imported({**WRITES, "num_beams": "4", "repetition_penalty": "1.2"})
    expected = {"max_new_tokens": 64, "do_sample": False, "num_beams": 1, "repetition_penalty": 1.2}
    assert expected == spec.generation.given()
    assert OF_TEXTS == spec.metrics[-4:]
    reasons = {left.key: left.reason for left in made.left}
    assert "ROUGE" in reasons["predict_with_generate"]
    assert "no effect" in reasons["num_beams"]


def test_tokens_are_drawn_above_a_temperature_of_0(imported: Written):
    spec, _ = imported({**WRITES, "temperature": "0.7", "top_p": "0.9", "max_new_tokens": "32"})
    expected = {"max_new_tokens": 32, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "num_beams": 1}
    assert expected == spec.generation.given()


@pytest.mark.parametrize("given", [{}, {**WRITES, "split_dataset_ratio": "0"}])
def test_nothing_is_written_without_evaluations(imported: Written, given: dict[str, str]):
    spec, _ = imported(given)
    assert spec.generation is None
