"""A LLaMA-Factory file trains a model to write, and so does the recipe that is made of it: versions 0 and 1."""

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
PAIRS = [{"instruction": f"Question {i}", "input": f"{i % 2 or ''}", "output": f"Answer {i}."} for i in range(12)]
TURNS = [{"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day."}]}]
V0: dict[str, Any] = {
    "model_name_or_path": "org/chat-8b",
    "stage": "sft",
    "finetuning_type": "lora",
    "template": "qwen",
    "output_dir": "out",
}
V1: dict[str, Any] = {"model": "org/chat-8b", "model_class": "llm", "output_dir": "out"}

Written = Callable[..., tuple[RecipeSpec, base.Imported]]


@pytest.fixture
def imported(tmp_path: Path) -> Written:
    """Import keys beside data sets a and b, whose entries are given."""

    def convert(keys: dict[str, Any], *, nproc: int = 1, **entries: dict[str, Any]) -> Any:
        for name in ("a", "b"):
            rows = TURNS if entries.get(name, {}).get("formatting") else PAIRS
            (tmp_path / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        known = {name: {"file_name": f"{name}.json", **entries.get(name, {})} for name in ("a", "b")}
        (tmp_path / "dataset_info.json").write_text(json.dumps(known), encoding="utf-8")
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
        made = importers.convert(path, nproc=nproc, task=SFT)
        (tmp_path / "recipe.yaml").write_text(made.text, encoding="utf-8")
        return load.load(tmp_path / "recipe.yaml", env={}).spec, made

    return convert


def test_free_text_is_imported_by_default(tmp_path: Path):
    """The command without --task makes a recipe of the task that writes; nothing is asked of the responses."""
    (tmp_path / "rows.json").write_text(json.dumps(PAIRS), encoding="utf-8")
    (tmp_path / "dataset_info.json").write_text('{"rows": {"file_name": "rows.json"}}', encoding="utf-8")
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump({**V0, "dataset": "rows"}), encoding="utf-8")
    done = CliRunner().invoke(cli, ["recipes", "import", str(tmp_path / "sft.yaml")])
    assert 0 == done.exit_code, done.output
    assert '  task: "sft"' in done.stdout


def test_one_set_of_alpaca(imported: Written, tmp_path: Path):
    """Path and format; LLaMA-Factory evaluates nothing where no rows are held out."""
    spec, _ = imported({**V0, "dataset": "a"})
    assert (str(tmp_path / "a.json"), "alpaca", {}) == (spec.data.path, spec.data.format, spec.data.columns)
    assert spec.data.eval is None
    assert 2048 == spec.data.max_length


def test_several_sets_keep_their_order_and_limits(imported: Written, tmp_path: Path):
    """max_samples limits each set, num_samples one."""
    spec, _ = imported({**V0, "dataset": "a,b", "max_samples": 5}, b={"num_samples": 3})
    assert [(str(tmp_path / "a.json"), 5), (str(tmp_path / "b.json"), 3)] == [(s.path, s.limit) for s in spec.data.sets]


@pytest.mark.parametrize(("val_size", "held"), [(0.1, 0.1), (40, 40), (3.0, 3)])
def test_rows_are_held_out(imported: Written, val_size: float, held: float):
    """val_size is a share below 1, and a number of rows otherwise."""
    spec, made = imported({**V0, "dataset": "a", "val_size": val_size})
    assert held == spec.data.eval.hold_out
    assert any(left.key == "val_size" for left in made.left)


def test_evaluation_sets_keep_their_names(imported: Written):
    spec, _ = imported({**V0, "dataset": "a", "eval_dataset": "b"})
    assert ["b"] == list(spec.data.eval.sets)


@pytest.mark.parametrize(
    ("entry", "format", "columns"),
    [
        ({"formatting": "sharegpt"}, "sharegpt", {}),
        ({"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}}, "sharegpt", {}),
        ({"formatting": "sharegpt", "columns": {"messages": "talk"}}, "sharegpt", {"messages": "talk"}),
        (
            {
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                },
            },
            "messages",
            {},
        ),
        ({"formatting": "openai"}, "messages", {}),
        (
            {"formatting": "sharegpt", "tags": {"user_tag": "人", "assistant_tag": "机"}},
            "sharegpt",
            {"user": "人", "assistant": "机"},
        ),
        (
            {"columns": {"prompt": "q", "query": "more", "response": "a"}},
            "alpaca",
            {"instruction": "q", "input": "more", "output": "a"},
        ),
        # An entry that names columns has no query unless it names one: an `input` beside it is not read.
        (
            {"columns": {"prompt": "instruction", "response": "output", "history": "earlier"}},
            "query-response",
            {"query": "instruction", "response": "output", "history": "earlier"},
        ),
    ],
)
def test_formats_and_their_columns(imported: Written, entry: dict[str, Any], format: str, columns: dict[str, str]):
    spec, _ = imported({**V0, "dataset": "a"}, a=entry)
    assert (format, columns) == (spec.data.format, spec.data.columns)


def test_a_set_of_the_hub(imported: Written):
    spec, _ = imported({**V0, "dataset": "a"}, a={"hf_hub_url": "org/rows", "subset": "zh", "split": "sft"})
    assert ("org/rows", "zh", "sft") == (spec.data.path, spec.data.name, spec.data.train.split)


def test_what_is_trained_of_a_conversation(imported: Written):
    last, _ = imported({**V0, "dataset": "a", "mask_history": True, "default_system": "Be brief."})
    whole, _ = imported({**V0, "dataset": "a", "train_on_prompt": True})
    assert ("last", "Be brief.") == (last.data.model_extra["train_on"], last.data.system)
    assert "all" == whole.data.model_extra["train_on"]


@pytest.mark.parametrize(
    ("changes", "entry", "said"),
    [
        ({"use_galore": True}, {}, "use_galore: True changes what is learned"),
        ({"quantization_bit": 4}, {}, "quantization_bit: 4 changes what is learned"),
        ({"finetuning_type": "oft"}, {}, "finetuning_type oft has no counterpart"),
        ({"stage": "dpo"}, {}, "stage dpo is another way to train"),
        ({"mix_strategy": "interleave_over"}, {}, "mix_strategy: 'interleave_over' draws rows"),
        ({}, {"ranking": True}, "its rows are preferences"),
        ({}, {"columns": {"prompt": "q", "response": "a", "images": "images"}}, "its rows have images"),
    ],
)
def test_what_changes_the_result_is_refused_with_the_command_that_runs_it(
    imported: Written, changes: dict[str, Any], entry: dict[str, Any], said: str
):
    with pytest.raises(LaunchError) as caught:
        imported({**V0, "dataset": "a", **changes}, nproc=8, a=entry)
    assert said in caught.value.what
    assert "train.yaml:" in caught.value.what
    assert "ascend-launch --nproc 8 -- llamafactory-cli train " in str(caught.value)


@pytest.mark.parametrize(
    "entry", [{"num_samples": "5"}, {"num_samples": 0}, {"tags": ["from"]}, {"tags": {"role_tag": 1}}]
)
def test_an_entry_of_other_types_is_refused(imported: Written, entry: dict[str, Any]):
    with pytest.raises(LaunchError, match=r"dataset_info\.json: a: not an entry as LLaMA-Factory reads it"):
        imported({**V0, "dataset": "a", "max_samples": 3}, a=entry)


def test_version_1_keeps_its_own_defaults(imported: Written, tmp_path: Path):
    """A constant learning rate, torch's weight decay, bf16, checkpointing, and LoRA's own dropout."""
    keys = {"dist_config": {"name": "fsdp2"}, "peft_config": {"name": "lora", "r": 16, "target_modules": "all"}}
    spec, _ = imported({**V1, **keys, "train_dataset": str(tmp_path / "a.json"), "micro_batch_size": 2}, nproc=4)
    assert ("fsdp2", "bf16", 8, 2) == (
        spec.parallel.strategy,
        spec.parallel.precision,
        spec.parallel.global_batch_size,
        spec.parallel.micro_batch_size,
    )
    assert (16, 16, 0.05, "all-linear") == (
        spec.adapter.r,
        spec.adapter.lora_alpha,
        spec.adapter.lora_dropout,
        spec.adapter.target_modules,
    )
    assert {
        "gradient_checkpointing": True,
        "learning_rate": 1e-4,
        "num_train_epochs": 3,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "weight_decay": 0.01,
        "lr_scheduler_type": "constant",
    } == spec.training


def test_version_1_reads_its_list_of_sets(imported: Written, tmp_path: Path):
    sets = {
        "first": {"path": "a.json", "source": "local", "converter": "alpaca"},
        "second": {"path": "b.json", "source": "local", "converter": "sharegpt", "size": 5},
    }
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump(sets), encoding="utf-8")
    spec, _ = imported({**V1, "train_dataset": "sets.yaml"})
    assert [("a.json", "alpaca", None), ("b.json", "sharegpt", 5)] == [
        (one.path, one.format, one.limit) for one in spec.data.sets
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quant_config": {"name": "bnb", "quantization_bit": 4}}, "quant_config: {"),
        ({"peft_config": {"name": "freeze"}}, "peft_config: {'name': 'freeze'} has no counterpart"),
        ({"optim_config": {"name": "muon"}}, "optim_config"),
        ({"cp_size": 2}, "cp_size: 2 has no counterpart"),
        ({"dist_config": {"name": "fsdpturbo"}}, "dist_config: 'fsdpturbo' has no counterpart"),
        ({"peft_config": "lora"}, "peft_config: expected a mapping"),
    ],
)
def test_version_1_is_refused_with_its_command(imported: Written, tmp_path: Path, changes: dict[str, Any], said: str):
    with pytest.raises(LaunchError) as caught:
        imported({**V1, "train_dataset": str(tmp_path / "a.json"), **changes})
    assert said in caught.value.what
    assert ("USE_V1=1 llamafactory-cli sft" in str(caught.value)) != ("expected a mapping" in said)


STOPS = {
    **V0,
    "dataset": "a",
    "val_size": 0.1,
    "early_stopping_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 50,
    "metric_for_best_model": "eval_loss",
}


def test_early_stopping_keeps_the_last_model_unless_the_best_is_asked_for(imported: Written):
    spec, _ = imported(STOPS)
    assert 3 == spec.early_stopping.patience
    assert spec.training["load_best_model_at_end"] is False
    spec, _ = imported({**STOPS, "metric_for_best_model": None, "load_best_model_at_end": True})
    assert (True, "loss") == (spec.training["load_best_model_at_end"], spec.training["metric_for_best_model"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"val_size": 0}, "nothing is evaluated"),
        ({"eval_strategy": None, "eval_steps": None}, "nothing is evaluated"),
        ({"metric_for_best_model": None}, "LLaMA-Factory needs metric_for_best_model"),
        ({"metric_for_best_model": "eval_rouge-l"}, "metric_for_best_model: .*eval_rouge-l"),
        ({"greater_is_better": True}, "greater_is_better: of loss less is better"),
        ({"early_stopping_steps": 0}, "expected a whole number above 0"),
        ({"load_best_model_at_end": True, "save_steps": 75}, "multiple of eval_steps"),
    ],
)
def test_early_stopping_without_a_counterpart_is_refused(imported: Written, given: dict[str, Any], message: str):
    with pytest.raises(LaunchError, match=rf"train.yaml:\d+: .*{message}"):
        imported({**STOPS, **given})


WRITES = {**V0, "dataset": "a", "val_size": 0.1, "predict_with_generate": True}
OF_TEXTS = ("rouge1", "rouge2", "rougeL", "bleu")


def test_texts_are_written_as_llama_factory_writes_them(imported: Written):
    """Its defaults draw tokens; its figures have others' names and ways to count."""
    spec, made = imported(WRITES)
    drawn = {"do_sample": True, "temperature": 0.95, "top_k": 50, "top_p": 0.7}
    assert {**drawn, "max_new_tokens": 1024, "num_beams": 1, "repetition_penalty": 1.0} == spec.generation.given()
    assert OF_TEXTS == spec.metrics[-4:]
    assert "ROUGE" in {left.key: left.reason for left in made.left}["predict_with_generate"]


def test_beams_take_the_place_of_draws(imported: Written):
    given = {"do_sample": False, "num_beams": 4, "length_penalty": 0.8, "max_new_tokens": 32, "temperature": 0.5}
    spec, made = imported({**WRITES, **given})
    expected = {"max_new_tokens": 32, "do_sample": False, "num_beams": 4, "length_penalty": 0.8}
    assert {**expected, "repetition_penalty": 1.0} == spec.generation.given()
    assert "do_sample is false" in {left.key: left.reason for left in made.left}["temperature"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 4}, "num_beams: .* drawn"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected a whole number above 0"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_ways_to_write_without_a_counterpart_are_refused(imported: Written, given: dict[str, Any], message: str):
    with pytest.raises(LaunchError, match=rf"train.yaml:\d+: .*{message}"):
        imported({**WRITES, **given})


@pytest.mark.parametrize("given", [{"val_size": 0}, {"stage": "pt"}, {"predict_with_generate": False}])
def test_nothing_is_written_without_answers_to_evaluate(imported: Written, given: dict[str, Any]):
    spec, _ = imported({**WRITES, **given})
    assert spec.generation is None
