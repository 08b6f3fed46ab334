"""Decoders of causal attention and a gated MLP: Llama's plan, and what later families changed in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from launcher.models.families import base
from launcher.models.families.base import Config, Experts, Parameter, Sizes, Traits


def never(config: Config) -> bool:
    return False


def always(config: Config) -> bool:
    return True


def attention_bias(config: Config) -> bool:
    return bool(config.get("attention_bias", False))


def mlp_bias(config: Config) -> bool:
    return bool(config.get("mlp_bias", False))


@dataclass(frozen=True)
class Decoder:
    """A family by what differs from Mistral's, which has no biases, two norms a block, and nothing fused."""

    head_dim: int | None = None
    """The config class's default, where it has one."""
    kv_heads: int | None = None
    ties: bool = False
    """tie_word_embeddings where config.json has none."""
    qkv_bias: Callable[[Config], bool] = never
    output_bias: Callable[[Config], bool] = never
    mlp_bias: Callable[[Config], bool] = never
    has_head_norms: bool = False
    """Queries and keys have a norm of their own."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    fuses_qkv: bool = False
    fuses_gate: bool = False
    norms_in_fp32: bool = False

    def traits(self, config: Config) -> Traits:
        return Traits(
            output_norms=len(self.norms) - 2,
            has_head_norms=self.has_head_norms,
            norms_in_fp32=self.norms_in_fp32,
            experts=self.experts(config),
        )

    def experts(self, config: Config) -> Experts | None:
        return None

    def sizes(self, config: Config) -> Sizes:
        return base.sizes(config, self.head_dim, self.kv_heads)

    def parameters(
        self, config: Config, sizes: Sizes, num_labels: int | None, *, of_words: bool = False
    ) -> Iterator[Parameter]:
        yield Parameter("model.embed_tokens.weight", (sizes.vocab, sizes.hidden), "embedding")
        for layer in range(sizes.num_layers):
            yield from self.attention(config, sizes, layer)
            yield from self.mlp(config, sizes, layer)
            for name in self.norms:
                yield from base.norm(f"model.layers.{layer}.{name}", sizes.hidden, layer)
        yield from base.norm("model.norm", sizes.hidden)
        if num_labels is not None:
            yield from base.head("score", num_labels, sizes.hidden, bias=of_words)
        elif not config.get("tie_word_embeddings", self.ties):
            yield from base.head("lm_head", sizes.vocab, sizes.hidden)

    def attention(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        q, kv = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
        prefix, bias = f"model.layers.{layer}.self_attn", self.qkv_bias(config)
        rows = {"qkv_proj": q + 2 * kv} if self.fuses_qkv else {"q_proj": q, "k_proj": kv, "v_proj": kv}
        for name, size in rows.items():
            yield from base.linear(f"{prefix}.{name}", size, sizes.hidden, layer, bias=bias)
        yield from base.linear(f"{prefix}.o_proj", sizes.hidden, q, layer, bias=self.output_bias(config))
        for name in ("q_norm", "k_norm") if self.has_head_norms else ():
            yield from base.norm(f"{prefix}.{name}", sizes.head_dim, layer)

    def mlp(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        yield from self.gated(f"model.layers.{layer}.mlp", sizes, sizes.intermediate, layer, bias=self.mlp_bias(config))

    def gated(self, prefix: str, sizes: Sizes, width: int, layer: int, *, bias: bool = False) -> Iterator[Parameter]:
        """The three matrices of a gated MLP."""
        rows = {"gate_up_proj": 2 * width} if self.fuses_gate else {"gate_proj": width, "up_proj": width}
        for name, size in rows.items():
            yield from base.linear(f"{prefix}.{name}", size, sizes.hidden, layer, bias=bias)
        yield from base.linear(f"{prefix}.down_proj", sizes.hidden, width, layer, bias=bias)


AROUND_BOTH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def _internlm_bias(config: Config) -> bool:
    return bool(config.get("attention_bias", config.get("qkv_bias", False)))


def _internlm_mlp_bias(config: Config) -> bool:
    return bool(config.get("mlp_bias", config.get("bias", False)))


def _glm_bias(config: Config) -> bool:
    return bool(config.get("attention_bias", True))


LLAMA = Decoder(qkv_bias=attention_bias, output_bias=attention_bias, mlp_bias=mlp_bias)
MISTRAL = Decoder()
QWEN2 = Decoder(qkv_bias=always)
QWEN3 = Decoder(head_dim=128, qkv_bias=attention_bias, output_bias=attention_bias, has_head_norms=True)
SMOLLM3 = Decoder(ties=True, kv_heads=4, qkv_bias=attention_bias, output_bias=attention_bias, mlp_bias=mlp_bias)
INTERNLM3 = Decoder(
    head_dim=128, kv_heads=2, qkv_bias=_internlm_bias, output_bias=_internlm_bias, mlp_bias=_internlm_mlp_bias
)
"""As transformers itself has it, by its Llama; not the model's own code."""
PHI3 = Decoder(fuses_qkv=True, fuses_gate=True)
GLM4 = Decoder(
    head_dim=128,
    kv_heads=2,
    qkv_bias=_glm_bias,
    norms=("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
    fuses_gate=True,
)
GEMMA = Decoder(
    head_dim=256, kv_heads=16, ties=True, qkv_bias=attention_bias, output_bias=attention_bias, norms_in_fp32=True
)
GEMMA2 = replace(GEMMA, kv_heads=4, norms=AROUND_BOTH)
GEMMA3 = replace(GEMMA2, has_head_norms=True)
