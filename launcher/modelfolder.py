"""What a model's files tell before anything starts: whether it can be trained here, how long its rows may be, how many
labels its head has, how large it is. Reads config.json and the headers of weight files; runs and downloads nothing."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError

ADAPTER = "adapter_config.json"
PLAN = "plan.json"
Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Name → (dtype in safetensors' spelling, shape)."""


@dataclass(frozen=True)
class About:
    """What is known of a model that may be trained."""

    num_parameters: int | None = None
    is_counted: bool = True
    """Whether weight files told the number; otherwise it is estimated from the config's sizes."""
    notes: tuple[str, ...] = ()
    """What the user should know before a launch."""


@dataclass(frozen=True)
class Wanted:
    """What a recipe asks of the model, in its own keys."""

    name: str
    task: str
    num_labels: int | None
    label_names: tuple[str, ...]
    max_length: int
    gguf_file: str | None = None
    pads_to: int = 1
    """Batches are padded to a multiple of this."""


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
        _require_plain_weights(folder, config, tensors, wanted)
    _require_positions(config, wanted)
    counted = sum(math.prod(shape) for _, shape in tensors.values())
    notes = (*_length_notes(config, wanted), *_head_notes(folder, config, wanted))
    return About(counted or _indexed(folder) or estimate(config), bool(counted), notes)


# -- what a folder is ----------------------------------------------------------------------------------------------


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
        raise _run_directory(folder / "latest", what=f"model.name {folder}: is a folder of runs")
    if has_weights(folder):
        return
    shards = [p for pattern in ("global_step*", "*.distcp", "*/*.distcp", "*_states.pt") for p in folder.glob(pattern)]
    if shards:
        step = folder.name.rpartition("-")[2]
        hint = f"write its weights as one model: ascend-launch export {run} --checkpoint {step} --out FOLDER; then model.name=FOLDER"
        raise LaunchError(
            f"model.name {folder}: is a checkpoint of shards ({shards[0].name}), not a model",
            hint=hint if run else "write its weights as one model, for DeepSpeed with its zero_to_fp32.py",
        )
    foreign = sorted(p.name for p in folder.iterdir() if p.suffix in _FOREIGN)
    if foreign and (folder / "config.json").is_file():
        # Without this, such a folder would count as a config alone, and training would start from random weights.
        hint = f"name it as model.gguf_file={foreign[0]}" if foreign[0].endswith(".gguf") else _CONVERT
        raise LaunchError(
            f"model.name {folder}: its weights ({foreign[0]}) are in a format that is not read here", hint=hint
        )


_FOREIGN = frozenset({".safetensors", ".bin", ".gguf", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".pdparams"})
_CONVERT = "use its Hugging Face format: model.safetensors, with model.safetensors.index.json where it is in parts"


def has_weights(folder: Path) -> bool:
    """Whether from_pretrained would find weights there."""
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any((folder / name).is_file() for name in names)


def _run_directory(folder: Path, what: str = "") -> LaunchError:
    run = folder.resolve()
    model = run / "model"
    if (model / ADAPTER).is_file():
        hint = f"it trained an adapter: ascend-launch export {run} --out FOLDER merges it into its model; then model.name=FOLDER"
    elif (model / "config.json").is_file():
        hint = f"model.name={model}"
    else:
        hint = (
            f"it has no final model yet: finish it, or ascend-launch export {run} --out FOLDER, then model.name=FOLDER"
        )
    return LaunchError(what or f"model.name {folder}: is a run directory, not a model", hint=hint)


def _adapter(folder: Path, run: Path | None) -> LaunchError:
    base = _json(folder / ADAPTER).get("base_model_name_or_path")
    of = f" of {base}" if isinstance(base, str) and base else ""
    source = run if run is not None and folder.resolve() == (run / "model").resolve() else folder
    new = f", or name {base} as model.name to train a new adapter" if of else ""
    return LaunchError(
        f"model.name {folder}: is an adapter{of}, not a whole model",
        hint=f"ascend-launch export {source} --out FOLDER merges it into its model; then model.name=FOLDER{new}",
    )


# -- code and classes ----------------------------------------------------------------------------------------------

_MAPPING = {
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
}


@cache
def native(table: str) -> frozenset[str]:
    """The model types in one of transformers' tables, read from its source text; empty where it cannot be read."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return frozenset()
    auto, found = Path(spec.origin).parent / "models" / "auto", set()
    for name in ("auto_mappings.py", "configuration_auto.py", "modeling_auto.py"):
        if (auto / name).is_file():
            text = (auto / name).read_text(encoding="utf-8")
            for part in re.split(rf"\n{table}\b[^=\n]*= OrderedDict[^(\n]*\(", text)[1:]:
                found |= set(re.findall(r'\(\s*"([^"]+)",\s*[("]', part.partition("\n)\n")[0]))
            if table in text:  # a few are added one by one
                found |= set(re.findall(r'"([^"]+)": "\w+Config"', text))
    return frozenset(found)


def _require_native(config: Mapping[str, Any], wanted: Wanted) -> None:
    """Raises LaunchError where the model's classes are in its own folder, or transformers has none for the task."""
    kind, code = str(config.get("model_type")), config.get("auto_map")
    known = native("CONFIG_MAPPING_NAMES")
    if code and known and kind not in known:
        first = next(iter(code.values()), "") if isinstance(code, Mapping) else ""
        file = f"{str(first).rpartition('--')[2].partition('.')[0]}.py"
        raise LaunchError(
            f"model.name {wanted.name}: model type {kind!r} needs code from its own folder (auto_map names {file})",
            hint="that code is never run here; use a model whose type transformers has, such as a copy converted to Llama's or Qwen's layout",
        )
    if known and isinstance(config.get("model_type"), str) and kind not in known:
        raise LaunchError(
            f"model.name {wanted.name}: the installed transformers has no model of type {kind!r}",
            hint="install a transformers that has it, or use another model; model_type in config.json says the type",
        )
    heads = native(_MAPPING[wanted.task])
    if known and heads and kind in known and kind not in heads:
        raise LaunchError(
            f"model.name {wanted.name}: transformers has no {wanted.task} model of type {kind!r}",
            hint="use another model, or another model.task",
        )


# -- quantised weights ---------------------------------------------------------------------------------------------

_QUANTISED_NAME = re.compile(
    r"[-_.](?:fp8(?:[-_]dynamic)?|awq(?:[-_]int4)?|gptq(?:[-_]int[48])?|int[48]|w[48]a(?:8|16)|(?:unsloth-)?bnb-4bit|[48]bit|"
    r"mxfp4|nvfp4|quantized)(?:[-_.].*)?$",
    re.IGNORECASE,
)
_QUANTISED_TENSOR = re.compile(
    r"\.(?:qweight|qzeros|g_idx|weight_scale_inv|weight_scale|absmax|quant_map|weight_packed|weight_offset)$"
    r"|\.weight\.(?:absmax|quant_map|quant_state\S*)$"
)
_QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "quant_model_description*.json")
"""What GPTQ, AWQ and msModelSlim leave beside weights, also where config.json says nothing."""


def quantised(folder: Path | None, config: Mapping[str, Any], tensors: Tensors) -> str | None:
    """How the weights are quantised, in the format's own word; None where they are plain."""
    for part in (config, config.get("text_config")):
        # `quantization` is MLX's key, `quantize` that of MindIE's tools for Ascend.
        for key in ("quantization_config", "compression_config", "quantization", "quantize"):
            found = part.get(key) if isinstance(part, Mapping) else None
            if isinstance(found, str) and found:
                return found
            if isinstance(found, Mapping) and found:
                bits = found.get("bits") or (4 if found.get("load_in_4bit") else None)
                method = str(found.get("quant_method") or found.get("format") or "in an unnamed format")
                return f"{method}, {bits} bit" if bits else method
    if folder is not None:
        for pattern in _QUANTISED_FILES:
            if file := next(folder.glob(pattern), None):
                return f"told by {file.name}"
    for name, (dtype, _) in tensors.items():
        if dtype.startswith(("F8", "F4")):
            return "fp8" if dtype.startswith("F8") else "fp4"
        if _QUANTISED_TENSOR.search(name):
            return f"told by the tensor {name}"
    return None


def _require_plain_weights(folder: Path | None, config: Mapping[str, Any], tensors: Tensors, wanted: Wanted) -> None:
    how = quantised(folder, config, tensors)
    if how is None:
        return
    named = _QUANTISED_NAME.sub("", wanted.name.rstrip("/"))
    plain = f", probably {named}" if named != wanted.name.rstrip("/") else ""
    raise LaunchError(
        f"model.name {wanted.name}: its weights are quantised ({how}), and quantised weights cannot be trained, nor an adapter over them here",
        hint=f"use the bf16 or fp16 model that it was made from{plain}; adapter: {{r: 8}} trains with less memory",
    )


# -- positions -----------------------------------------------------------------------------------------------------

_BY_LENGTH = (
    "albert bart bert bert-generation big_bird bigbird_pegasus biogpt blenderbot blenderbot-small canine convbert"
    " deberta deberta-v2 distilbert electra ernie flaubert fnet git gpt_neo layoutlm layoutlmv2 marian mbart"
    " megatron-bert mobilebert mra mvp nystromformer opt pegasus perceiver plbart reformer rembert roc_bert roformer"
    " squeezebert trocr xlm yoso"
)
_TABLE = {
    **dict.fromkeys(_BY_LENGTH.split(), "max_position_embeddings"),
    **dict.fromkeys(("codegen", "ctrl", "gpt2", "gpt-sw3", "gpt_bigcode", "gptj", "openai-gpt"), "n_positions"),
    "mpt": "max_seq_len",
}
"""Families whose positions are rows of a table, and the key of config.json that says how many. Found by running
transformers' models on rows of every length, and by the source of the few that cannot be made small."""

_BEHIND_PADDING = (
    "camembert data2vec-text esm ibert layoutlmv3 lilt longformer luke markuplm mpnet roberta roberta-prelayernorm"
    " xlm-roberta xlm-roberta-xl xmod"
)
_AFTER_PADDING = frozenset(_BEHIND_PADDING.split())
"""Families that number positions from behind the padding token's id, as fairseq does: of 514 rows 512 are left."""

_DEFAULT_POSITIONS = {
    **dict.fromkeys(("gpt2", "gpt_bigcode", "bart", "mbart", "plbart", "biogpt", "pegasus", "mvp", "marian"), 1024),
    **dict.fromkeys(("opt", "gpt_neo", "gptj", "codegen", "mpt"), 2048),
    **dict.fromkeys(("big_bird", "bigbird_pegasus"), 4096),
    "canine": 16384,
}
"""What transformers' config classes say where config.json does not; 512 for the rest."""


def positions(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """What the model's table of positions takes, as (tokens of a row, width of a padded batch); None without a table."""
    kind = str(config.get("model_type"))
    key = "max_position_embeddings" if kind in _AFTER_PADDING else _TABLE.get(kind)
    if key is None or (kind.startswith("deberta") and not config.get("position_biased_input", True)):
        return None
    if kind == "esm" and config.get("position_embedding_type", "absolute") != "absolute":
        return None
    given = (config.get(k) for k in (key, "n_positions", "max_position_embeddings"))
    size = next((n for n in given if isinstance(n, int)), _DEFAULT_POSITIONS.get(kind, 512))
    padding = config.get("pad_token_id", 1)
    return (size - (padding if isinstance(padding, int) else 1) - 1, size) if kind in _AFTER_PADDING else (size, size)


def _require_positions(config: Mapping[str, Any], wanted: Wanted) -> None:
    found = positions(config)
    if found is None:
        return
    limit, width = found
    padded = -(-wanted.max_length // wanted.pads_to) * wanted.pads_to
    most = limit if -(-limit // wanted.pads_to) * wanted.pads_to <= width else limit // wanted.pads_to * wanted.pads_to
    if wanted.max_length > limit:
        rest = f" ({width} rows, of which {width - limit} are kept for padding)" if limit < width else ""
        raise LaunchError(
            f"data.max_length {wanted.max_length} is more than the {limit} positions that {wanted.name} has{rest}",
            hint=f"set data.max_length={most} or less",
        )
    if padded > width:
        raise LaunchError(
            f"data.max_length {wanted.max_length}: on cards batches are padded to a multiple of {wanted.pads_to}, here"
            f" {padded}, and {wanted.name} has {width} positions",
            hint=f"set data.max_length={most} or less",
        )


def _length_notes(config: Mapping[str, Any], wanted: Wanted) -> Sequence[str]:
    """Rows longer than a model with rotary positions was trained on: it computes, and computes badly."""
    if positions(config) is not None:
        return ()
    text = config.get("text_config")
    part: Mapping[str, Any] = text if isinstance(text, Mapping) else config
    trained = part.get("max_position_embeddings")
    given = (part.get("rope_scaling"), part.get("rope_parameters"))
    scaling: Mapping[str, Any] = next((value for value in given if isinstance(value, Mapping)), {})
    original = scaling.get("original_max_position_embeddings") or part.get("original_max_position_embeddings")
    kind, factor = str(scaling.get("rope_type") or scaling.get("type") or "default"), scaling.get("factor")
    if not isinstance(trained, int):
        return ()
    if kind in ("dynamic", "yarn") and not isinstance(original, int):
        original = trained  # as transformers takes it
    if isinstance(original, int) and isinstance(factor, int | float) and kind != "default":
        trained = max(trained, int(original * factor))
    if wanted.max_length > trained:
        return (
            f"data.max_length {wanted.max_length} is beyond the {trained} positions that the model was trained on:"
            " longer rows are computed, and badly",
        )
    if isinstance(original, int) and wanted.max_length > original:
        return (
            f"data.max_length {wanted.max_length} is beyond the {original} positions that the model was trained on first;"
            f" its RoPE scaling ({kind}) reaches to {trained}",
        )
    return ()


# -- the head ------------------------------------------------------------------------------------------------------

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
    if wanted.task != "sequence-classification" or wanted.num_labels is None:
        return ()
    there = head_labels(folder, config)
    if there is None:
        return ()
    if there != wanted.num_labels:
        return (
            f"{wanted.name} has a head of {there} labels, the recipe {wanted.num_labels}: a new head is trained in its place",
        )
    known = config.get("id2label")
    names = [str(known.get(str(i))) for i in range(there)] if isinstance(known, Mapping) else []
    is_named = names and not all(re.fullmatch(r"LABEL_\d+|None", name) for name in names)
    if (
        is_named
        and wanted.label_names
        and tuple(n.lower() for n in names) != tuple(n.lower() for n in wanted.label_names)
    ):
        return (
            f"the head of {wanted.name} knows its labels as {', '.join(names)}, in this order; the recipe names"
            f" {', '.join(wanted.label_names)}",
        )
    return ()


# -- sizes ---------------------------------------------------------------------------------------------------------

_LARGEST_HEADER = 100 << 20
"""safetensors' own limit, in bytes."""


def headers(folder: Path) -> Tensors:
    """Every tensor of the safetensors files that from_pretrained reads; empty where there are none or one is damaged."""
    index = folder / "model.safetensors.index.json"
    weight_map = _json(index).get("weight_map") if index.is_file() else None
    names = sorted({str(n) for n in weight_map.values()}) if isinstance(weight_map, Mapping) else ["model.safetensors"]
    found: Tensors = {}
    for name in names:
        found |= _header(folder / name)
    return found


def _header(path: Path) -> Tensors:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            value = json.loads(file.read(size)) if 0 < size <= _LARGEST_HEADER else {}
        return {
            name: (str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            for name, entry in value.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # what is wrong with the file is said when it is read whole


def _indexed(folder: Path | None) -> int | None:
    """Parameters by the index of weights whose files are not here, or by the size of older files."""
    if folder is None:
        return None
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        metadata = _json(folder / name).get("metadata")
        if isinstance(metadata, Mapping):
            if isinstance(metadata.get("total_parameters"), int):
                return int(metadata["total_parameters"])
            if isinstance(metadata.get("total_size"), int):
                return int(metadata["total_size"]) // _element_bytes(_json(folder / "config.json"))
    file = folder / "pytorch_model.bin"
    return file.stat().st_size // _element_bytes(_json(folder / "config.json")) if file.is_file() else None


def _element_bytes(config: Mapping[str, Any]) -> int:
    return 2 if str(config.get("dtype") or config.get("torch_dtype")).endswith("16") else 4


def estimate(config: Mapping[str, Any]) -> int | None:
    """About how many parameters a transformer of these sizes has; None where the config does not tell its sizes."""
    text = config.get("text_config")
    part: Mapping[str, Any] = text if isinstance(text, Mapping) else config

    def size(*keys: str) -> int:
        return next((int(part[k]) for k in keys if isinstance(part.get(k), int) and part[k] > 0), 0)

    hidden = size("hidden_size", "n_embd", "d_model", "dim", "emb_dim")
    layers = size("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers") + size("decoder_layers")
    if not hidden or not layers:
        return None
    inner = size("intermediate_size", "ffn_dim", "encoder_ffn_dim", "n_inner", "hidden_dim", "d_ff") or 4 * hidden
    experts = size("num_experts", "num_local_experts", "n_routed_experts")
    if experts:
        inner = (size("moe_intermediate_size") or inner) * experts
    act = str(part.get("hidden_act") or part.get("activation_function") or part.get("activation"))
    matrices = 3 if act in ("silu", "swish", "gelu_pytorch_tanh") and not size("n_embd") else 2
    groups = 1 if config.get("model_type") == "albert" else layers  # its layers are one layer's weights
    return size("vocab_size") * hidden + groups * (4 * hidden * hidden + matrices * hidden * inner)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
