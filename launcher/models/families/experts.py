"""Decoders whose MLP is a choice of experts. transformers keeps those of a block in two tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from launcher.models.families import base
from launcher.models.families.base import Config, Experts, Parameter, Sizes
from launcher.models.families.decoder import Decoder, attention_bias


def _experts(prefix: str, count: int, width: int, hidden: int, layer: int) -> Iterator[Parameter]:
    """All experts of a block, and the router."""
    yield Parameter(f"{prefix}.gate.weight", (count, hidden), "stacked", layer)
    yield Parameter(f"{prefix}.experts.gate_up_proj", (count, 2 * width, hidden), "stacked", layer)
    yield Parameter(f"{prefix}.experts.down_proj", (count, hidden, width), "stacked", layer)


@dataclass(frozen=True)
class Mixtral(Decoder):
    def experts(self, config: Config) -> Experts | None:
        active = int(config.get("num_experts_per_tok") or 2)
        return Experts(int(config.get("num_local_experts") or 8), active, int(config["intermediate_size"]))

    def mlp(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        count = int(config.get("num_local_experts") or 8)
        yield from _experts(f"model.layers.{layer}.mlp", count, sizes.intermediate, sizes.hidden, layer)


@dataclass(frozen=True)
class Qwen3Moe(Decoder):
    """Some blocks may have a plain MLP."""

    def experts(self, config: Config) -> Experts | None:
        count = int(config.get("num_experts", config.get("num_local_experts", 128)))
        width, active = int(config.get("moe_intermediate_size") or 768), int(config.get("num_experts_per_tok") or 8)
        return Experts(count, active, width) if count else None

    def mlp(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        count = int(config.get("num_experts", config.get("num_local_experts", 128)))
        is_sparse = (layer + 1) % int(config.get("decoder_sparse_step") or 1) == 0
        if count and is_sparse and layer not in (config.get("mlp_only_layers") or ()):
            width = int(config.get("moe_intermediate_size") or 768)
            yield from _experts(f"model.layers.{layer}.mlp", count, width, sizes.hidden, layer)
        else:
            yield from super().mlp(config, sizes, layer)


@dataclass(frozen=True)
class GptOss(Decoder):
    """Experts with biases, stored the other way round, and an attention sink for each head."""

    def experts(self, config: Config) -> Experts | None:
        active = int(config.get("num_experts_per_tok") or 4)
        return Experts(int(config.get("num_local_experts") or 128), active, int(config["intermediate_size"]))

    def attention(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        yield Parameter(f"model.layers.{layer}.self_attn.sinks", (sizes.num_heads,), "stacked", layer)
        yield from super().attention(config, sizes, layer)

    def mlp(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        prefix, count = f"model.layers.{layer}.mlp", int(config.get("num_local_experts") or 128)
        yield Parameter(f"{prefix}.router.weight", (count, sizes.hidden), "stacked", layer)
        yield Parameter(f"{prefix}.router.bias", (count,), "bias", layer)
        for name, rows, columns in (
            ("gate_up_proj", sizes.hidden, 2 * sizes.intermediate),
            ("down_proj", sizes.intermediate, sizes.hidden),
        ):
            yield Parameter(f"{prefix}.experts.{name}", (count, rows, columns), "stacked", layer)
            yield Parameter(f"{prefix}.experts.{name}_bias", (count, columns), "bias", layer)


@dataclass(frozen=True)
class Deepseek(Decoder):
    """Keys and values (and queries) through a narrow middle; first blocks with a plain MLP; experts that every token has."""

    first_dense: int = 0
    """The class's default of first_k_dense_replace, and so of the two below."""
    routed: int = 64
    shared: int = 2
    width: int = 1407
    active: int = 6

    def experts(self, config: Config) -> Experts | None:
        width, active = (
            int(config.get(name) or default)
            for name, default in (("moe_intermediate_size", self.width), ("num_experts_per_tok", self.active))
        )
        count, shared = self._counts(config)
        return Experts(count, active, width, width * shared)

    def _counts(self, config: Config) -> tuple[int, int]:
        """Experts to choose from, and shared ones."""
        counts = {"n_routed_experts": self.routed, "n_shared_experts": self.shared}
        routed, shared = (default if config.get(n) is None else int(config[n]) for n, default in counts.items())
        return routed, shared

    def sizes(self, config: Config) -> Sizes:
        """A head's queries and keys have a part with a position and one without."""
        parts = (int(config.get(f"qk_{name}_head_dim") or default) for name, default in (("nope", 128), ("rope", 64)))
        return replace(super().sizes(config), head_dim=sum(parts), num_kv_heads=int(config["num_attention_heads"]))

    def attention(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        prefix, bias, heads = f"model.layers.{layer}.self_attn", attention_bias(config), sizes.num_heads
        nope, rope, value = (
            int(config.get(f"{name}_head_dim") or default)
            for name, default in (("qk_nope", 128), ("qk_rope", 64), ("v", 128))
        )
        middle, rank = int(config.get("kv_lora_rank") or 512), config.get("q_lora_rank", 1536)
        if rank is None:
            yield from base.linear(f"{prefix}.q_proj", heads * (nope + rope), sizes.hidden, layer)
        else:
            yield from base.linear(f"{prefix}.q_a_proj", int(rank), sizes.hidden, layer, bias=bias)
            yield from base.norm(f"{prefix}.q_a_layernorm", int(rank), layer)
            yield from base.linear(f"{prefix}.q_b_proj", heads * (nope + rope), int(rank), layer)
        yield from base.linear(f"{prefix}.kv_a_proj_with_mqa", middle + rope, sizes.hidden, layer, bias=bias)
        yield from base.norm(f"{prefix}.kv_a_layernorm", middle, layer)
        yield from base.linear(f"{prefix}.kv_b_proj", heads * (nope + value), middle, layer)
        yield from base.linear(f"{prefix}.o_proj", sizes.hidden, heads * value, layer, bias=bias)

    def mlp(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        prefix, dense = f"model.layers.{layer}.mlp", config.get("first_k_dense_replace")
        if layer < (self.first_dense if dense is None else int(dense)):
            yield from super().mlp(config, sizes, layer)
            return
        width = int(config.get("moe_intermediate_size") or self.width)
        count, shared = self._counts(config)
        yield from _experts(prefix, count, width, sizes.hidden, layer)
        bias = self.mlp_bias(config)
        yield from self.gated(f"{prefix}.shared_experts", sizes, width * shared, layer, bias=bias)


def _gpt_oss_bias(config: Config) -> bool:
    return bool(config.get("attention_bias", True))


def _deepseek_v2_bias(config: Config) -> bool:
    return bool(config.get("mlp_bias", False))


MIXTRAL = Mixtral(kv_heads=8)
QWEN3_MOE = Qwen3Moe(kv_heads=4, qkv_bias=attention_bias, output_bias=attention_bias, has_head_norms=True)
GPT_OSS = GptOss(head_dim=64, kv_heads=8, qkv_bias=_gpt_oss_bias, output_bias=_gpt_oss_bias)
DEEPSEEK_V2 = Deepseek(mlp_bias=_deepseek_v2_bias)
DEEPSEEK_V3 = Deepseek(first_dense=3, routed=256, shared=1, width=2048, active=8)
