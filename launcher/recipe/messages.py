"""What is said of a value that a recipe may not have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel

from launcher.messages import Message
from launcher.recipe import training_fields
from launcher.recipe.schema import DeepSpeed, RecipeSpec

_EXPECTED = {
    "int_type": Message("expected a whole number"),
    "int_parsing": Message("expected a whole number"),
    "int_from_float": Message("expected a whole number"),
    "float_type": Message("expected a number"),
    "float_parsing": Message("expected a number"),
    "bool_type": Message("expected true or false"),
    "bool_parsing": Message("expected true or false"),
    "string_type": Message("expected text"),
    "tuple_type": Message("expected a list"),
    "list_type": Message("expected a list"),
    "dict_type": Message("expected a mapping"),
    "model_type": Message("expected a mapping"),
    "model_attributes_type": Message("expected a mapping"),
    "string_too_short": Message("must not be empty"),
}


def sentence(item: Any, path: tuple[str | int, ...]) -> str:
    value, kind = item["input"], item["type"]
    shown = training_fields.shown(value)
    shown = shown if len(shown) < 60 else shown[:57] + "..."
    if kind == "extra_forbidden":
        section = _section_of(path[:-1])
        if section is DeepSpeed and path[-1] in _DEEPSPEED_ELSEWHERE:
            return Message(
                "not set here: {deepspeed_elsewhere}", deepspeed_elsewhere=_DEEPSPEED_ELSEWHERE[str(path[-1])]
            )
        return Message(
            "unknown key{did_you_mean}", did_you_mean=did_you_mean(str(path[-1]), section) if section else ""
        )
    if kind == "literal_error":
        expected = item["ctx"]["expected"].replace("'", "")
        close = difflib.get_close_matches(str(value), re.split(r", | or ", expected), n=1)
        return Message(
            "{shown} is not one of {expected}{close}",
            shown=shown,
            expected=expected,
            close=Message("; did you mean `{close}`?", close=close[0]) if close else "",
        )
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{shown}: {item['msg'].removeprefix('Input ').replace('should be', 'must be')}"
    expected = _EXPECTED.get(kind, item["msg"])
    return (
        expected if kind == "string_too_short" else Message("{expected}, got {shown}", expected=expected, shown=shown)
    )


def recipe_path(loc: tuple[Any, ...], values: Any) -> tuple[str | int, ...]:
    path: list[str | int] = []
    for part in loc:
        if (isinstance(values, dict) and part in values) or (isinstance(values, list) and isinstance(part, int)):
            path.append(part)
            values = values[part]
    return tuple(path)


def _section_of(path: tuple[str | int, ...]) -> type[BaseModel] | None:
    section: Any = RecipeSpec
    for part in path:
        field = section.model_fields.get(part) if section else None
        sections = sections_in(field.annotation) if field else []
        section = sections[0] if sections else None
    return section


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The classes of sections among the types of an annotation."""
    # Python 3.10 takes list[str] for a class too, of which issubclass then knows nothing.
    classes = [t for t in _types(annotation) if isinstance(t, type) and not get_args(t)]
    return [t for t in classes if issubclass(t, BaseModel)]


def _types(annotation: Any) -> list[Any]:
    args = getattr(annotation, "__args__", None)
    return [t for a in args for t in _types(a)] if args else [annotation]


def keys_of(section: type[BaseModel]) -> str:
    return ", ".join(section.model_fields)


def did_you_mean(key: str, section: type[BaseModel], others: Iterable[str] = ()) -> str:
    """`others`: keys beside the section's."""
    known = [*section.model_fields, *others]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return (
        Message("; did you mean `{close}`?", close=close[0])
        if close
        else Message("; keys here are {keys_of}", keys_of=", ".join(known))
    )


_PEERS = {
    "model_name_or_path": "model.name",
    "dataset": "data.path",
    "cutoff_len": "data.max_length",
    "finetuning_type": Message("adapter (leave it out for full fine-tuning)"),
    "lora_rank": "adapter.r",
    "lora_alpha": "adapter.lora_alpha",
    "lora_target": "adapter.target_modules",
    "template": "data.prompt",
    "deepspeed": "parallel.strategy",
    "learning_rate": "training.learning_rate",
    "num_train_epochs": "training.num_train_epochs",
    "per_device_train_batch_size": "parallel.global_batch_size",
    "bf16": "parallel.precision",
    "seed": "training.seed",
    "early_stopping_patience": "early_stopping.patience",
    "early_stopping_steps": "early_stopping.patience",
    "class_weights": "model.class_weights",
}


def peer_hint(key: str) -> str:
    if key in _PEERS:
        return Message("; here it is written {peers}", peers=_PEERS[key])
    if key in training_fields.fields():
        return Message("; it belongs under training: training.{key}", key=key)
    return ""


_DEEPSPEED_ELSEWHERE = {
    "zero_optimization": Message("write its keys directly below parallel.deepspeed"),
    "stage": "set parallel.strategy",
    "offload_optimizer": "set parallel.strategy: zero3-offload",
    "offload_param": "set parallel.strategy: zero3-offload",
    "train_batch_size": "set parallel.global_batch_size",
    "train_micro_batch_size_per_gpu": "set parallel.micro_batch_size",
    "gradient_accumulation_steps": Message("it follows from parallel.global_batch_size and micro_batch_size"),
    "gradient_clipping": "set training.max_grad_norm",
    "bf16": "set parallel.precision",
    "fp16": "set parallel.precision",
    "optimizer": "set training.optim",
    "scheduler": "set training.lr_scheduler_type",
    "activation_checkpointing": "set training.gradient_checkpointing",
    "stage3_gather_16bit_weights_on_model_save": Message(
        "it stays on: without it a checkpoint holds no weights that can be read"
    ),
    "reduce_scatter": Message("the launcher decides it, since results depend on it"),
    "allgather_partitions": Message("the launcher decides it"),
}
"""Keys of DeepSpeed's config that a recipe does not set below parallel.deepspeed, and what to write instead."""
