"""What a model's files say before anything starts: whether it can be trained here, how long its rows may be, how many
labels its head has, how large it is. Reads config.json and the headers of weight files; runs and downloads nothing."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.models.headers import estimate, headers, indexed, json_object
from launcher.models.positions import length_notes, require_positions
from launcher.models.quantised import require_plain_weights
from launcher.models.wanted import About, Wanted

ADAPTER = "adapter_config.json"
PLAN = "plan.json"


def check(folder: Path | None, config: Mapping[str, Any] | None, wanted: Wanted) -> About:
    """Refuse a model that no strategy could train as the recipe says.

    Args:
        folder: where the model is on this machine; None where it is not here.
        config: its config.json; None where it is not known.

    Raises:
        LaunchError: it needs code of its own, is quantised, or has fewer positions than the rows have tokens.
    """
    if config is None:
        return About()
    _require_native(config, wanted)
    tensors = headers(folder) if folder is not None else {}
    if wanted.gguf_file is None:
        require_plain_weights(folder, config, tensors, wanted)
    require_positions(config, wanted)
    counted = sum(math.prod(shape) for _, shape in tensors.values())
    notes = (*length_notes(config, wanted), *_head_notes(folder, config, wanted))
    return About(counted or indexed(folder) or estimate(config), bool(counted), notes)


def require_model(folder: Path) -> None:
    """Refuse a folder that is something else than a model, with the way to one.

    Raises:
        LaunchError: an adapter, a run directory, a checkpoint of shards, or weights in another program's format.
    """
    run = next((p for p in (folder, *folder.resolve().parents[:2]) if (p / PLAN).is_file()), None)
    if (folder / PLAN).is_file():
        raise _run_directory(folder)
    if (folder / ADAPTER).is_file():
        raise _adapter(folder, run)
    if (folder / "latest" / PLAN).is_file():
        raise _run_directory(folder / "latest", what=Message("model.name {folder}: is a folder of runs", folder=folder))
    if has_weights(folder):
        return
    shards = [p for pattern in ("global_step*", "*.distcp", "*/*.distcp", "*_states.pt") for p in folder.glob(pattern)]
    if shards:
        step = folder.name.rpartition("-")[2]
        hint: str = Message(
            "write its weights as one model: ascend-launch export {run} --checkpoint {step} --out "
            "FOLDER; then model.name=FOLDER",
            run=run,
            step=step,
        )
        raise LaunchError(
            Message(
                "model.name {folder}: is a checkpoint of shards ({shard}), not a model",
                folder=folder,
                shard=shards[0].name,
            ),
            hint=hint if run else "write its weights as one model, for DeepSpeed with its zero_to_fp32.py",
        )
    foreign = sorted(p.name for p in folder.iterdir() if p.suffix in _FOREIGN)
    if foreign and (folder / "config.json").is_file():
        # Without this, such a folder would count as a config alone, and training would start from random weights.
        hint = (
            Message("name it as model.gguf_file={foreign}", foreign=foreign[0])
            if foreign[0].endswith(".gguf")
            else _CONVERT
        )
        raise LaunchError(
            Message(
                "model.name {folder}: its weights ({foreign}) are in a format that is not read here",
                folder=folder,
                foreign=foreign[0],
            ),
            hint=hint,
        )


_FOREIGN = frozenset({".safetensors", ".bin", ".gguf", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".pdparams"})
_CONVERT = Message(
    "use its Hugging Face format: model.safetensors, with model.safetensors.index.json where it is in parts"
)


def has_weights(folder: Path) -> bool:
    """Whether from_pretrained would find weights there."""
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any((folder / name).is_file() for name in names)


def _run_directory(folder: Path, what: str = "") -> LaunchError:
    run = folder.resolve()
    model = run / "model"
    if (model / ADAPTER).is_file():
        hint: str = Message(
            "it trained an adapter: ascend-launch export {run} --out FOLDER merges it into its model; "
            "then model.name=FOLDER",
            run=run,
        )
    elif (model / "config.json").is_file():
        hint = f"model.name={model}"
    else:
        hint = Message(
            "it has no final model yet: finish it, or ascend-launch export {run} --out FOLDER, then model.name=FOLDER",
            run=run,
        )
    return LaunchError(
        what or Message("model.name {folder}: is a run directory, not a model", folder=folder), hint=hint
    )


def _adapter(folder: Path, run: Path | None) -> LaunchError:
    base = json_object(folder / ADAPTER).get("base_model_name_or_path")
    of = Message(" of {base}", base=base) if isinstance(base, str) and base else ""
    source = run if run is not None and folder.resolve() == (run / "model").resolve() else folder
    new = Message(", or name {base} as model.name to train a new adapter", base=base) if of else ""
    return LaunchError(
        "model.name {folder}: is an adapter{of}, not a whole model",
        hint="ascend-launch export {source} --out FOLDER merges it into its model; then model.name=FOLDER{new}",
        folder=folder,
        of=of,
        source=source,
        new=new,
    )


@cache
def classes(table: str) -> Mapping[str, str]:
    """The model types in one of transformers' tables, each with its class, or "" where there are several; read from its source
    text, and empty where it cannot be read."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    auto = Path(spec.origin).parent / "models" / "auto"
    types: dict[str, str] = {}
    for name in ("auto_mappings.py", "configuration_auto.py", "modeling_auto.py"):
        if (auto / name).is_file():
            text = (auto / name).read_text(encoding="utf-8")
            for part in re.split(rf"\n{table}\b[^=\n]*= OrderedDict[^(\n]*\(", text)[1:]:
                types |= dict(re.findall(r'\(\s*"([^"]+)",\s*(?:\(|"(\w*)")', part.partition("\n)\n")[0]))
            if table in text:  # a few are added one by one
                types |= dict(re.findall(r'"([^"]+)": "(\w+Config)"', text))
    return types


def native(table: str) -> frozenset[str]:
    """The model types in one of transformers' tables; empty where it cannot be read."""
    return frozenset(classes(table))


def _require_native(config: Mapping[str, Any], wanted: Wanted) -> None:
    """Raises LaunchError where the model's classes are in its own folder, or transformers has none for the task."""
    kind, code = str(config.get("model_type")), config.get("auto_map")
    known = native("CONFIG_MAPPING_NAMES")
    if code and known and kind not in known:
        first = next(iter(code.values()), "") if isinstance(code, Mapping) else ""
        file = f"{str(first).rpartition('--')[2].partition('.')[0]}.py"
        raise LaunchError(
            "model.name {wanted}: model type {kind!r} needs code from its own folder (auto_map names {file})",
            hint="that code is never run here; use a model whose type transformers has, such as a copy "
            "converted to Llama's or Qwen's layout",
            wanted=wanted.name,
            kind=kind,
            file=file,
        )
    if known and isinstance(config.get("model_type"), str) and kind not in known:
        raise LaunchError(
            "model.name {wanted}: the installed transformers has no model of type {kind!r}",
            hint="install a transformers that has it, or use another model; model_type in config.json says the type",
            wanted=wanted.name,
            kind=kind,
        )
    _require_text(kind, config, wanted)
    heads = native(wanted.mapping)
    if known and heads and kind in known and kind not in heads:
        raise LaunchError(
            "model.name {wanted}: transformers has no {task} model of type {kind!r}",
            hint="use another model, or another model.task",
            wanted=wanted.name,
            task=wanted.task,
            kind=kind,
        )


SENSES = ("vision_config", "audio_config")
"""Sections of the config.json of a model that sees or hears."""


def _require_text(kind: str, config: Mapping[str, Any], wanted: Wanted) -> None:
    """Raises LaunchError for a model with parts that no text reaches, unless transformers makes a model of text of it."""
    sense = next((name for name in SENSES if isinstance(config.get(name), Mapping)), None)
    if sense is not None and not classes(wanted.mapping).get(kind, "").endswith("ForCausalLM"):
        raise LaunchError(
            "model.name {wanted}: a model of type {kind!r} sees or hears too ({sense} in config.json), and text alone is "
            "trained here",
            hint="name a model of text, or save its language model by itself, as docs/migrate.md says",
            wanted=wanted.name,
            kind=kind,
            sense=sense,
        )


HEADS = (
    "score.weight",
    "classifier.weight",
    "classifier.out_proj.weight",
    "classifier.linear_out.weight",
    "classification_head.out_proj.weight",
    "logits_proj.weight",
    "sequence_summary.summary.weight",
)
"""The last matrix of a classification head, (labels, hidden), by the names that transformers' models give it."""


def head_labels(folder: Path | None, config: Mapping[str, Any]) -> int | None:
    """How many labels the checkpoint's classification head has; None where it has no head."""
    tensors = headers(folder) if folder is not None else {}
    for name in HEADS:
        if name in tensors and len(tensors[name][1]) == 2:
            return tensors[name][1][0]
    named = config.get("architectures")
    is_head = isinstance(named, list) and any(str(n).endswith("ForSequenceClassification") for n in named)
    if tensors or not is_head or folder is None or not has_weights(folder):
        return None
    # Weights of the older format, whose names are not read here.
    known = config.get("id2label")
    return len(known) if isinstance(known, Mapping) else int(config.get("num_labels", 2))


def _head_notes(folder: Path | None, config: Mapping[str, Any], wanted: Wanted) -> Sequence[str]:
    if not wanted.has_head or wanted.num_labels is None:
        return ()
    num_labels = head_labels(folder, config)
    if num_labels is None:
        return ()
    if num_labels != wanted.num_labels:
        return (
            Message(
                "{wanted} has a head of {place} labels, the recipe {num_labels}: a new head is trained in its place",
                wanted=wanted.name,
                place=num_labels,
                num_labels=wanted.num_labels,
            ),
        )
    known = config.get("id2label")
    names = [str(known.get(str(i))) for i in range(num_labels)] if isinstance(known, Mapping) else []
    is_named = names and not all(re.fullmatch(r"LABEL_\d+|None", name) for name in names)
    if (
        is_named
        and wanted.label_names
        and tuple(n.lower() for n in names) != tuple(n.lower() for n in wanted.label_names)
    ):
        return (
            Message(
                "the head of {wanted} knows its labels as {names}, in this order; the recipe names {label_names}",
                wanted=wanted.name,
                names=", ".join(names),
                label_names=", ".join(wanted.label_names),
            ),
        )
    return ()
