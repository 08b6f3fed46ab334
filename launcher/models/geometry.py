"""Names and shapes of a model's parameters, by its family, from its config.json alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from launcher.errors import LaunchError


@dataclass(frozen=True)
class Parameter:
    name: str
    shape: tuple[int, ...]
    kind: Literal["embedding", "linear", "norm", "bias", "head"]
    layer: int | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Geometry:
    """What of a model's config decides memory."""

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    parameters: tuple[Parameter, ...]

    @property
    def num_parameters(self) -> int:
        return sum(p.numel for p in self.parameters)

    @property
    def layer_parameters(self) -> int:
        """Of one transformer block."""
        return sum(p.numel for p in self.parameters if p.layer == 0)

    @property
    def outer_parameters(self) -> int:
        """Embedding, last norm and head: what is in no block."""
        return sum(p.numel for p in self.parameters if p.layer is None)

    @property
    def largest_parameter(self) -> int:
        return max(p.numel for p in self.parameters)


ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose parameters can be listed."""


def geometry(config: Mapping[str, Any], *, has_head: bool = True, num_labels: int = 2) -> Geometry:
    """The parameters of a Hugging Face config.json with a classification head, or else its language-modelling head.

    Raises:
        LaunchError: the family is none of ARCHITECTURES, or a number is missing.
    """
    family = str(config.get("model_type", ""))
    if family not in ARCHITECTURES:
        raise LaunchError(
            "memory of model_type {family!r} cannot be computed",
            hint="known are {architectures}; name a strategy and a micro batch in the recipe instead of auto",
            family=family or "(none)",
            architectures=", ".join(ARCHITECTURES),
        )
    try:
        hidden, intermediate = int(config["hidden_size"]), int(config["intermediate_size"])
        num_layers, num_heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        vocab = int(config["vocab_size"])
        num_kv_heads = int(config.get("num_key_value_heads") or num_heads)
        # Qwen3's config class has its own default; the others divide.
        head_dim = int(config.get("head_dim") or (128 if family == "qwen3" else hidden // num_heads))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise LaunchError(
            "config.json: {error} is missing or no number", hint="use the model's own config.json", error=error
        ) from None
    if min(hidden, intermediate, num_layers, num_heads, num_kv_heads, head_dim, vocab) < 1:
        raise LaunchError("config.json: sizes must be positive", hint="use the model's own config.json")
    return Geometry(
        hidden,
        intermediate,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        vocab,
        tuple(_parameters(config, family, has_head, num_labels, head_dim, num_kv_heads)),
    )


def _parameters(
    config: Mapping[str, Any], family: str, has_head: bool, num_labels: int, head_dim: int, num_kv_heads: int
) -> Iterable[Parameter]:
    """Names and shapes as in transformers' modeling files, so that they can be compared one by one."""
    h, i, v = int(config["hidden_size"]), int(config["intermediate_size"]), int(config["vocab_size"])
    q, kv = int(config["num_attention_heads"]) * head_dim, num_kv_heads * head_dim
    has_qkv_bias = family == "qwen2" or (bool(config.get("attention_bias", False)) and family != "mistral")
    has_o_bias = family in ("llama", "qwen3") and bool(config.get("attention_bias", False))
    has_mlp_bias = family == "llama" and bool(config.get("mlp_bias", False))
    yield Parameter("model.embed_tokens.weight", (v, h), "embedding")
    for n in range(int(config["num_hidden_layers"])):
        prefix = f"model.layers.{n}"
        linears = (
            ("self_attn.q_proj", q, h, has_qkv_bias),
            ("self_attn.k_proj", kv, h, has_qkv_bias),
            ("self_attn.v_proj", kv, h, has_qkv_bias),
            ("self_attn.o_proj", h, q, has_o_bias),
            ("mlp.gate_proj", i, h, has_mlp_bias),
            ("mlp.up_proj", i, h, has_mlp_bias),
            ("mlp.down_proj", h, i, has_mlp_bias),
        )
        for name, rows, columns, has_bias in linears:
            yield Parameter(f"{prefix}.{name}.weight", (rows, columns), "linear", n)
            if has_bias:
                yield Parameter(f"{prefix}.{name}.bias", (rows,), "bias", n)
        if family == "qwen3":
            yield Parameter(f"{prefix}.self_attn.q_norm.weight", (head_dim,), "norm", n)
            yield Parameter(f"{prefix}.self_attn.k_norm.weight", (head_dim,), "norm", n)
        yield Parameter(f"{prefix}.input_layernorm.weight", (h,), "norm", n)
        yield Parameter(f"{prefix}.post_attention_layernorm.weight", (h,), "norm", n)
    yield Parameter("model.norm.weight", (h,), "norm")
    if has_head:
        yield Parameter("score.weight", (num_labels, h), "head")
    elif not config.get("tie_word_embeddings", False):
        yield Parameter("lm_head.weight", (v, h), "head")


@dataclass(frozen=True)
class Lora:
    """PEFT's LoraConfig, as far as it decides memory."""

    r: int = 8
    target_modules: str | tuple[str, ...] = "all-linear"
    modules_to_save: tuple[str, ...] = ()

    def targets(self, geometry: Geometry) -> tuple[Parameter, ...]:
        """Linear layers that get an adapter; `all-linear` leaves the head out (peft's documentation)."""
        linear = [p for p in geometry.parameters if p.kind == "linear"]
        if self.target_modules == "all-linear":
            return tuple(linear)
        names = {self.target_modules} if isinstance(self.target_modules, str) else set(self.target_modules)
        targets = tuple(p for p in linear if p.name.removesuffix(".weight").rpartition(".")[2] in names)
        if not targets:
            raise LaunchError(
                "adapter.target_modules {names} name no layer of this model",
                hint="use all-linear, or q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
                names=sorted(names),
            )
        return targets

    def trainable(self, geometry: Geometry, *, has_head: bool) -> tuple[Parameter, ...]:
        """The adapters, and the copies that peft trains whole beside them: of a classifier's head and of modules_to_save."""
        out = []
        for p in self.targets(geometry):
            name = p.name.removesuffix(".weight")
            out.append(Parameter(f"{name}.lora_A", (self.r, p.shape[1]), "linear", p.layer))
            out.append(Parameter(f"{name}.lora_B", (p.shape[0], self.r), "linear", p.layer))
        head = "head" if has_head else None
        out += [
            replace(p, name=f"{p.name}.copy")
            for p in geometry.parameters
            if p.kind == head or any(f".{name}." in f".{p.name}" for name in self.modules_to_save)
        ]
        return tuple(out)
