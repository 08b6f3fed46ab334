"""Quantised weights, which are not trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.models.headers import Tensors
from launcher.models.wanted import Wanted

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
    """How the weights are quantised, by the format's own name; None where they are plain."""
    for part in (config, config.get("text_config")):
        # `quantization` is MLX's key, `quantize` that of MindIE's tools for Ascend.
        for key in ("quantization_config", "compression_config", "quantization", "quantize"):
            settings = part.get(key) if isinstance(part, Mapping) else None
            if isinstance(settings, str) and settings:
                return settings
            if isinstance(settings, Mapping) and settings:
                bits = settings.get("bits") or (4 if settings.get("load_in_4bit") else None)
                method = str(settings.get("quant_method") or settings.get("format") or Message("in an unnamed format"))
                return Message("{method}, {bits} bit", method=method, bits=bits) if bits else method
    if folder is not None:
        for pattern in _QUANTISED_FILES:
            if file := next(folder.glob(pattern), None):
                return Message("as {file} shows", file=file.name)
    for name, (dtype, _) in tensors.items():
        if dtype.startswith(("F8", "F4")):
            return "fp8" if dtype.startswith("F8") else "fp4"
        if _QUANTISED_TENSOR.search(name):
            return Message("as the tensor {name} shows", name=name)
    return None


def require_plain_weights(folder: Path | None, config: Mapping[str, Any], tensors: Tensors, wanted: Wanted) -> None:
    how = quantised(folder, config, tensors)
    if how is None:
        return
    named = _QUANTISED_NAME.sub("", wanted.name.rstrip("/"))
    plain = Message(", probably {named}", named=named) if named != wanted.name.rstrip("/") else ""
    raise LaunchError(
        "model.name {wanted}: its weights are quantised ({how}), and quantised weights cannot be "
        "trained, nor an adapter over them here",
        hint="use the bf16 or fp16 model that it was made from{plain}; adapter: {{r: 8}} trains with less memory",
        wanted=wanted.name,
        how=how,
        plain=plain,
    )
