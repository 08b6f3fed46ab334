"""TrainingArguments' fields, read from the installed transformers' source text: names, types and choices, no import.

Where none is installed, as on a host that only plans and submits, they come from training_arguments.json: what
tools/training_arguments.py wrote down of the transformers that the tests run with.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message, joined

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": Message("`--device cpu` on the command line"),
    "group_by_length": "train_sampling_strategy: group_by_length",
    "warmup_ratio": Message("warmup_steps, where a number below 1 is the ratio"),
    "logging_dir": Message("nothing: TensorBoard files go to the run directory"),
    "overwrite_output_dir": Message("nothing: every run has a directory of its own"),
    "save_safetensors": Message("nothing: weights are always saved as safetensors"),
    "per_gpu_train_batch_size": "parallel.micro_batch_size",
    "per_gpu_eval_batch_size": "parallel.eval_batch_size",
    "tokenizer": "model.tokenizer",
    "adafactor": Message("optim: adafactor"),
    "fsdp_min_num_params": "parallel.strategy: fsdp2",
    "fsdp_transformer_layer_cls_to_wrap": "parallel.strategy: fsdp2",
    "push_to_hub_model_id": Message("`hf upload` afterwards"),
    "push_to_hub_token": Message("the HF_TOKEN variable"),
    "half_precision_backend": "parallel.precision",
    "dispatch_batches": Message("nothing: every rank loads its own rows"),
    "split_batches": Message("nothing: parallel.global_batch_size is the total"),
}
"""Names of transformers 4 that 5 rejects, and what to write today (transformers 5.23, training_args.py)."""

_COMPILED = Message(
    "not supported here: batches have many lengths, and each would be compiled anew; a compiled "
    "model is another class, which sharding, checkpoints and exports would have to know"
)
_UPLOAD = Message("an upload that fails would end the run; afterwards: hf upload ORG/NAME RUN/model")
_BATCH = Message("set parallel.global_batch_size (and, if you must, parallel.micro_batch_size)")
OWNED = {
    "deepspeed": Message("the launcher renders one DeepSpeed config for the job; set parallel.strategy"),
    "fsdp": "set parallel.strategy: fsdp2",
    "fsdp_config": "set parallel.strategy: fsdp2",
    "parallelism_config": "set parallel.strategy",
    "accelerator_config": Message("the launcher decides how rows are dispatched, since metrics depend on it"),
    "bf16": "set parallel.precision",
    "fp16": "set parallel.precision",
    "bf16_full_eval": "set parallel.precision",
    "fp16_full_eval": "set parallel.precision",
    "tf32": Message("it exists on GPUs only"),
    "torch_compile": _COMPILED,
    "torch_compile_backend": _COMPILED,
    "torch_compile_mode": _COMPILED,
    "per_device_train_batch_size": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "auto_find_batch_size": _BATCH,
    "per_device_eval_batch_size": "set parallel.eval_batch_size",
    "output_dir": Message("set output_dir at the top level"),
    "use_cpu": Message("say --device cpu"),
    "ddp_backend": Message("it follows from the device: hccl on npu, gloo on cpu"),
    "local_rank": Message("it comes from the launcher"),
    "do_train": Message("a run trains and evaluates; `ascend-launch eval` evaluates alone"),
    "do_eval": "set eval_strategy",
    "do_predict": Message("use `ascend-launch predict`"),
    "remove_unused_columns": Message("the launcher keeps the row index that exact metrics need"),
    "label_names": "set data.label",
    "length_column_name": Message("the launcher writes this column itself"),
    "include_for_metrics": Message("metrics come from per-row predictions, see `metrics`"),
    "batch_eval_metrics": Message("metrics come from per-row predictions, see `metrics`"),
    "prediction_loss_only": Message("metrics come from per-row predictions, see `metrics`"),
    "eval_do_concat_batches": Message("metrics come from per-row predictions, see `metrics`"),
    "eval_use_gather_object": Message("metrics come from per-row predictions, see `metrics`"),
    "eval_accumulation_steps": Message("evaluation keeps one number a row, so there is nothing to accumulate"),
    "average_tokens_across_devices": Message("it stays on: without it the loss changes with the number of ranks"),
    "full_determinism": Message("it sets CUDA switches; use seed, and HCCL_DETERMINISTIC=true on NPUs"),
    "disable_tqdm": Message("the launcher shows the progress itself"),
    "skip_memory_metrics": Message("the memory of each rank is always measured; the report shows it"),
    "dataloader_in_order": Message(
        "the order of rows is fixed, so that a run that goes on is the run that was interrupted"
    ),
    "ignore_data_skip": Message("a run that is launched again goes on with the next rows"),
    "enable_jit_checkpoint": Message("the launcher saves on SIGTERM by itself"),
    "restore_callback_states_from_checkpoint": Message("the launcher's checkpoints hold all state there is"),
    "resume_from_checkpoint": Message("launch again with --run-dir RUN: it goes on from its newest whole checkpoint"),
    "save_on_each_node": Message("all nodes share the run directory, so each file is written once"),
    "push_to_hub": _UPLOAD,
    "hub_model_id": _UPLOAD,
    "hub_strategy": _UPLOAD,
    "hub_private_repo": _UPLOAD,
    "hub_always_push": _UPLOAD,
    "hub_revision": _UPLOAD,
    "hub_token": Message("export HF_TOKEN: a recipe is copied into the run directory and must hold no secret"),
}
"""Fields of TrainingArguments that a recipe may not set, each with the reason or the key to use instead."""


RECORDED = Path(__file__).with_name("training_arguments.json")


@dataclass(frozen=True)
class Field:
    """One field: the plain types it takes (`float`, `int`, `bool`, `str`, `dict`, `list`, `None`) and its choices."""

    types: frozenset[str]
    choices: tuple[str, ...] = ()


@cache
def fields() -> dict[str, Field]:
    """Every field of the installed TrainingArguments by name.

    Raises:
        LaunchError: the installed transformers' source has no TrainingArguments class.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        rows = json.loads(RECORDED.read_text(encoding="utf-8"))
        return {name: Field(frozenset(row["types"]), tuple(row["choices"])) for name, row in rows.items()}
    root = Path(spec.origin).parent
    text = (root / "training_args.py").read_text(encoding="utf-8")
    enums = _enums(text) | _enums((root / "trainer_utils.py").read_text(encoding="utf-8"))
    body = _class(text, "TrainingArguments")
    by_name = {
        node.target.id: _field(node, enums)
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    if not by_name:
        raise LaunchError("{root}: no TrainingArguments found", hint="install transformers 5", root=root)
    return by_name


def _enums(text: str) -> dict[str, tuple[str, ...]]:
    out = {}
    for chunk in text.split("\nclass ")[1:]:
        name, _, rest = chunk.partition("(")
        if rest.startswith("ExplicitEnum)"):
            body = _class(text, name)
            values = (n.value.value for n in body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant))
            out[name] = tuple(str(v) for v in values)
    return out


def _class(text: str, name: str) -> list[ast.stmt]:
    # Only the class's own lines are parsed, up to its first method: the whole file costs ten times as much.
    _, marker, rest = text.partition(f"\nclass {name}")
    if not marker:
        return []
    lines = rest.splitlines()
    end = next(
        (i for i, line in enumerate(lines[1:], 1) if (line and not line[0].isspace()) or line.startswith("    def ")),
        None,
    )
    node = ast.parse(Message("class {name}{lines}", name=name, lines="\n".join(lines[:end]))).body[0]
    assert isinstance(node, ast.ClassDef)
    return node.body


def _field(node: ast.AnnAssign, enums: dict[str, tuple[str, ...]]) -> Field:
    names = [n.id for n in ast.walk(node.annotation) if isinstance(n, ast.Name)]
    names += ["None" for n in ast.walk(node.annotation) if isinstance(n, ast.Constant) and n.value is None]
    top = ast.unparse(node.annotation)
    if "dict[" in top:  # the parameters of dict[str, Any] are not alternatives of the field
        names = [n for n in names if n not in {"str", "bool", "Any"}] + (["str"] if "| str" in top else [])
    if "list[" in top and "str |" not in top and "| str" not in top:
        names = [n for n in names if n != "str"]
    choices = [v for n in names for v in enums.get(n, ())]
    for keyword in ast.walk(node):
        if isinstance(keyword, ast.Dict):
            for key, value in zip(keyword.keys, keyword.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "choices" and isinstance(value, ast.List):
                    choices += [str(e.value) for e in value.elts if isinstance(e, ast.Constant)]
    plain = {"float", "int", "bool", "str", "dict", "list", "None"}
    return Field(frozenset(n if n in plain else "str" for n in names), tuple(choices))


def as_meant(name: str, value: Any) -> Any:
    """`no` is false in YAML; where a field has the choice `no`, that is what was written."""
    field = fields().get(name)
    return "no" if value is False and field is not None and "no" in field.choices else value


def is_left_out(name: str, value: Any) -> bool:
    """Whether a value is null where the field takes none: then a file's value is taken back (`training.save_steps=null`)."""
    return value is None and name in fields() and name not in OWNED and "None" not in fields()[name].types


_SHORT = {"lr": "learning_rate", "epochs": "num_train_epochs", "batch_size": "parallel.global_batch_size"}


def problem(name: str, value: Any) -> str | None:
    """What is wrong with `training.<name>: value` in a recipe, or None."""
    known = fields()
    if name in OWNED:
        return Message("not set in a recipe: {owned}", owned=OWNED[name])
    if name not in known:
        if name in RENAMED:
            return Message("transformers 5 has no such argument; use {renamed}", renamed=RENAMED[name])
        close = [_SHORT[name]] if name in _SHORT else None
        close = close or difflib.get_close_matches(name, known.keys() - OWNED.keys(), n=1, cutoff=0.6)
        return Message(
            "no such TrainingArguments field{close}",
            close=Message("; did you mean `{close}`?", close=close[0]) if close else "",
        )
    field = known[name]
    # transformers also takes a mapping as JSON text, and as a file; a recipe has it as it is.
    types = field.types - {"str"} if "dict" in field.types else field.types
    if not _fits(value, types):
        wanted = joined(sorted(_TYPE_WORDS[t] for t in types), " or ")
        return Message("expected {wanted}, got {value}", wanted=wanted, value=shown(value))
    if field.choices and isinstance(value, str) and value not in field.choices:
        close = [c for c in field.choices if value and c.startswith(value)]
        close = close or difflib.get_close_matches(value, field.choices, n=1)
        hint = (
            Message("; did you mean `{close}`?", close=close[0])
            if close
            else Message("; one of {choices}", choices=", ".join(field.choices))
        )
        return Message("{value!r} is not a choice{hint}", value=value, hint=hint)
    return None


_TYPE_WORDS = {
    "float": "a number",
    "int": Message("a whole number"),
    "bool": Message("true or false"),
    "str": "text",
    "dict": "a mapping",
    "list": "a list",
    "None": "null",
}


def shown(value: Any) -> str:
    """A value as a recipe writes it, where that differs from Python."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _fits(value: Any, types: frozenset[str]) -> bool:
    if isinstance(value, bool):
        return "bool" in types
    if isinstance(value, int):
        return bool({"int", "float"} & types)
    if isinstance(value, float):
        return "float" in types or ("int" in types and value.is_integer())
    return type(value).__name__.replace("NoneType", "None") in types
