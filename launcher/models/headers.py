"""The headers of safetensors files: names, shapes and bytes of tensors, without the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Name → (dtype in safetensors' spelling, shape)."""


_LARGEST_HEADER = 100 << 20
"""safetensors' own limit, in bytes."""


def headers(folder: Path) -> Tensors:
    """Every tensor of the safetensors files that from_pretrained reads; empty where there are none or one is damaged."""
    index = folder / "model.safetensors.index.json"
    weight_map = json_object(index).get("weight_map") if index.is_file() else None
    names = sorted({str(n) for n in weight_map.values()}) if isinstance(weight_map, Mapping) else ["model.safetensors"]
    tensors: Tensors = {}
    for name in names:
        tensors |= _header(folder / name)
    return tensors


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


def indexed(folder: Path | None) -> int | None:
    """Parameters by the index of weights whose files are not here, or by the size of older files."""
    if folder is None:
        return None
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        metadata = json_object(folder / name).get("metadata")
        if isinstance(metadata, Mapping):
            if isinstance(metadata.get("total_parameters"), int):
                return int(metadata["total_parameters"])
            if isinstance(metadata.get("total_size"), int):
                return int(metadata["total_size"]) // _element_bytes(json_object(folder / "config.json"))
    file = folder / "pytorch_model.bin"
    return file.stat().st_size // _element_bytes(json_object(folder / "config.json")) if file.is_file() else None


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


def json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
