"""An axolotl file becomes a recipe that trains the same, or is refused with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.errors import LaunchError
from launcher.recipe import load
from launcher.recipe.importers import base
from launcher.recipe.importers import table as importers
from launcher.recipe.schema import RecipeSpec

SFT = "sft"
CHATS = {"path": "org/chats", "type": "chat_template"}
GIVEN: dict[str, Any] = {"base_model": "org/chat-8b", "learning_rate": 2e-5, "datasets": [CHATS]}
LORA = {"adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True}
Written = Callable[..., tuple[RecipeSpec, base.Imported]]


@pytest.fixture
def imported(tmp_path: Path) -> Written:
    """Import a file with these keys and those that every one has."""

    def convert(given: dict[str, Any] | None = None, **options: Any) -> tuple[RecipeSpec, base.Imported]:
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump({**GIVEN, **(given or {})}, sort_keys=False), encoding="utf-8")
        made = importers.convert(path, **{"nproc": None, "task": SFT, **options})
        (tmp_path / "recipe.yaml").write_text(made.text, encoding="utf-8")
        return load.load(tmp_path / "recipe.yaml", env={}).spec, made

    return convert


def test_what_axolotl_does_by_itself_is_written_out(imported: Written):
    spec, made = imported()
    expected = {
        "weight_decay": 0.0,
        "num_train_epochs": 1.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "save_strategy": "epoch",
        "save_total_limit": 4,
        "optim": "adamw_torch_fused",
    }
    assert expected == {key: spec.training[key] for key in expected}
    assert (512, "drop", None, "messages") == (
        spec.data.max_length,
        spec.data.too_long,
        spec.data.eval,
        spec.data.format,
    )
    assert (1, "auto", "ddp", None) == (
        spec.parallel.global_batch_size,
        spec.parallel.precision,
        spec.parallel.strategy,
        spec.adapter,
    )
    assert any("ends a turn" in left.reason for left in made.left)


def test_the_batch_is_counted_over_ranks_that_do_not_share_rows(imported: Written):
    given = {"micro_batch_size": 2, "gradient_accumulation_steps": 4, "context_parallel_size": 2}
    spec, made = imported(given, nproc=8)
    assert 32 == spec.parallel.global_batch_size
    assert any("each rank's mean" in left.reason for left in made.left)


@pytest.mark.parametrize(
    ("one", "format", "columns"),
    [
        ({"field_messages": "conversations"}, "messages", {"messages": "conversations"}),
        (
            {"field_messages": "conversations", "message_property_mappings": {"role": "from", "content": "value"}},
            "sharegpt",
            {},
        ),
        (
            {"message_field_role": "from", "message_field_content": "value"},
            "sharegpt",
            {"messages": "messages"},
        ),
        (
            {"roles": {"assistant": ["gpt", "model"], "user": ["user"]}, "message_field_training": "learn"},
            "messages",
            {"assistant": "model", "train": "learn"},
        ),
        ({"type": "completion", "field": "body"}, "text", {"text": "body"}),
    ],
)
def test_formats_and_their_columns(imported: Written, one: dict[str, Any], format: str, columns: dict[str, str]):
    spec, _ = imported({"datasets": [{**CHATS, **one}]})
    assert (format, columns) == (spec.data.format, spec.data.columns)


def test_sets_splits_and_what_is_held_out(imported: Written, tmp_path: Path):
    (tmp_path / "rows.txt").write_text("{}", encoding="utf-8")
    given = {
        "datasets": [{**CHATS, "split": "train[:20%]", "name": "zh"}, {**CHATS, "path": "rows.txt", "ds_type": "json"}],
        "val_set_size": 0.05,
        "evals_per_epoch": 2,
        "num_epochs": 4,
        "saves_per_epoch": 1,
    }
    spec, _ = imported(given)
    hub, file = spec.data.sets
    assert ("org/chats", "zh", "train[:20%]") == (hub.path, hub.name, hub.split)
    assert ("json", str(tmp_path / "rows.txt")) == (file.path, file.data_files)
    assert 0.05 == spec.data.eval.hold_out
    assert ("steps", 0.125, True, 0.25) == (
        spec.training["eval_strategy"],
        spec.training["eval_steps"],
        spec.training["eval_on_start"],
        spec.training["save_steps"],
    )


def test_lora(imported: Written):
    spec, _ = imported({**LORA, "lora_dropout": 0.1, "lora_modules_to_save": ["embed_tokens"], "peft_use_dora": True})
    assert (16, 32, 0.1, "all-linear", ("embed_tokens",), True) == (
        spec.adapter.r,
        spec.adapter.lora_alpha,
        spec.adapter.lora_dropout,
        spec.adapter.target_modules,
        spec.adapter.modules_to_save,
        spec.adapter.use_dora,
    )


@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        ({"warmup_steps": 1}, "warmup_steps", 2),
        ({"warmup_ratio": 0.1}, "warmup_steps", 0.1),
        ({"cosine_min_lr_ratio": 0.1}, "lr_scheduler_kwargs", {"min_lr_rate": 0.1}),
        ({"cosine_min_lr_ratio": 0.1}, "lr_scheduler_type", "cosine_with_min_lr"),
        ({"adam_beta2": 0.95}, "adam_beta2", 0.95),
        ({"group_by_length": True}, "train_sampling_strategy", "group_by_length"),
        ({"gradient_checkpointing": "offload"}, "gradient_checkpointing", True),
        ({"save_strategy": False}, "save_strategy", "no"),
        ({"noisy_embedding_alpha": 5}, "neftune_noise_alpha", 5),
    ],
)
def test_training_arguments(imported: Written, given: dict[str, Any], key: str, expected: Any):
    assert expected == imported(given)[0].training[key]


@pytest.mark.parametrize(
    ("given", "precision", "strategy"),
    [
        ({"bf16": True, "deepspeed": "deepspeed_configs/zero2.json"}, "bf16", "zero2"),
        ({"bf16": False, "fp16": True, "fsdp_version": 2, "fsdp_config": {"offload_params": False}}, "fp16", "fsdp2"),
        ({"bf16": False}, "fp32", "ddp"),
    ],
)
def test_precision_and_strategy(imported: Written, given: dict[str, Any], precision: str, strategy: str):
    spec, _ = imported(given)
    assert (precision, strategy) == (spec.parallel.precision, spec.parallel.strategy)


def test_chat_templates(imported: Written, tmp_path: Path):
    """ChatML is ours too; a file keeps its name; tokenizer_default is the tokenizer's own."""
    (tmp_path / "own.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert "chatml" == imported({"chat_template": "chatml"})[0].data.chat_template
    own = imported({"chat_template": "jinja", "chat_template_jinja": "own.jinja"})[0]
    assert str(tmp_path / "own.jinja") == own.data.chat_template
    assert not hasattr(imported({"chat_template": "tokenizer_default"})[0].data, "chat_template")


@pytest.mark.parametrize(
    ("given", "line", "said"),
    [
        ({"adapter": "qlora"}, 6, "adapter qlora has no counterpart"),
        ({"load_in_4bit": True}, 6, "not quantized"),
        ({"rl": "dpo"}, 6, "preferences"),
        ({"processor_type": "AutoProcessor"}, 6, "see or hear"),
        ({"datasets": [{"path": "a", "type": "alpaca"}]}, 5, "words of its own"),
        ({"datasets": [CHATS, {**CHATS, "train_on_eos": "last"}]}, 8, "each answer's end is trained"),
        ({"datasets": [{**CHATS, "shards": 2}]}, 6, "shards has no counterpart"),
        ({"chat_template": "llama3"}, 6, "axolotl's own words"),
        ({"train_on_inputs": True}, 6, "what users say"),
        ({"excess_length_strategy": "raise"}, 6, "'raise' has no counterpart"),
        ({"special_tokens": {"eos_token": "</s>"}}, 6, "eos_token changes"),
        ({"plugins": ["mine.DistillPlugin"]}, 6, "DistillPlugin has no counterpart"),
        ({"optimizer": "adamw_bnb_8bit"}, 6, "bitsandbytes"),
        ({"lr_scheduler": "rex"}, 6, "no such schedule"),
        ({"min_sample_len": 100}, 6, "short rows"),
        ({"adapter": "lora"}, 6, "lora_target_linear: true"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_changes_the_result_is_refused_with_its_line(
    imported: Written, tmp_path: Path, given: dict[str, Any], line: int, said: str
):
    with pytest.raises(LaunchError) as caught:
        imported(given, nproc=4)
    assert f"train.yaml:{line}: " in str(caught.value)
    assert said in str(caught.value)
    assert f"ascend-launch --nproc 4 -m axolotl.cli.train {tmp_path / 'train.yaml'}" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"special_tokens": ["<s>"]}, "special_tokens: expected a mapping, got"),
        ({"plugins": "one"}, "plugins: expected a list of texts, got"),
        ({"num_epochs": "two"}, "num_epochs: expected a number, got"),
        ({"datasets": "org/chats"}, "datasets: expected a list of mappings"),
        ({"datasets": [{**CHATS, "roles": ["user"]}]}, "roles: expected a mapping of lists of texts, got"),
        ({"datasets": [{"type": "chat_template"}]}, "path: expected text, got None"),
        ({"output_dir": ""}, "output_dir: must not be empty"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_values_of_another_kind_are_refused(imported: Written, given: dict[str, Any], said: str):
    with pytest.raises(LaunchError, match=r"train\.yaml:\d: |train\.yaml: its values") as caught:
        imported(given)
    assert said in str(caught.value)


STOPS = {"early_stopping_patience": 3, "save_steps": 100, "eval_steps": 50, "val_set_size": 0.1}


def test_early_stopping_keeps_the_best_model(imported: Written):
    """As there, whatever load_best_model_at_end says; a greater_is_better of false is not read there."""
    spec, _ = imported({**STOPS, "load_best_model_at_end": False, "greater_is_better": False})
    assert 3 == spec.early_stopping.patience
    assert (True, "loss") == (spec.training["load_best_model_at_end"], spec.training["metric_for_best_model"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"val_set_size": 0}, "nothing is evaluated"),
        ({"eval_steps": None}, "axolotl needs save_steps and eval_steps"),
        ({"metric_for_best_model": "eval_sacrebleu"}, "metric_for_best_model: .*eval_sacrebleu"),
        ({"early_stopping_patience": 1.5}, "expected a whole number above 0"),
    ],
)
def test_early_stopping_without_a_counterpart_is_refused(imported: Written, given: dict[str, Any], message: str):
    with pytest.raises(LaunchError, match=rf"train.yaml:\d+: .*{message}"):
        imported({**STOPS, **given})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"format": "Q: {instruction}\nA:", "field_output": "answer"}, "type: a format of its own"),
        (None, "no type: its rows are tokens already"),
    ],
)
def test_rows_without_a_chat_template_are_named_in_words(imported: Written, kind: Any, message: str):
    with pytest.raises(LaunchError, match=rf"train.yaml:\d+: {message}"):
        imported({"datasets": [{"path": "org/pairs", "type": kind}]})
