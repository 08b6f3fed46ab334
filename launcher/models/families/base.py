"""What every family of models answers: its sizes and its parameters, from a config.json alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Config = Mapping[str, Any]
"""A config.json."""


@dataclass(frozen=True)
class Parameter:
    name: str
    shape: tuple[int, ...]
    kind: Literal["embedding", "linear", "stacked", "norm", "bias", "head"]
    """`stacked` is a weight of no nn.Linear: experts in one tensor, a router, a convolution."""
    layer: int | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Sizes:
    """What of a model's config decides memory."""

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int


@dataclass(frozen=True)
class Experts:
    """Of a block whose MLP is a choice of experts."""

    count: int
    active: int
    """Those that a token has."""
    width: int
    """Of one of them."""
    shared: int = 0
    """Width of what every token has beside them."""


@dataclass(frozen=True)
class Traits:
    """What a block computes, as far as its activations go."""

    plan: Literal["gated", "encoder"] = "gated"
    """After Llama (two RMSNorms, a gated MLP), or after BERT (LayerNorms, dropout, a plain MLP)."""
    output_norms: int = 0
    """Norms whose output is added to the stream and not multiplied."""
    has_head_norms: bool = False
    norms_in_fp32: bool = False
    """Norms keep both their input and what they made of it in fp32, as Gemma's do."""
    experts: Experts | None = None


class Family(Protocol):
    """Models of one model_type. Names and shapes are those of transformers' modeling files, so that they can be compared."""

    def traits(self, config: Config) -> Traits:
        """By which activations are counted (launcher/strategies/activations.py). Raises as `sizes`."""

    def sizes(self, config: Config) -> Sizes:
        """Raises KeyError, TypeError or ValueError where a number is missing or is none."""

    def parameters(
        self, config: Config, sizes: Sizes, num_labels: int | None, *, of_words: bool = False
    ) -> Iterator[Parameter]:
        """With a classification head of `num_labels`, or with its language-modelling head where that is None. `of_words`: the
        classification head is over each token, and not over the text.

        Raises:
            NotImplementedError: the family has no such head.
        """


def sizes(config: Config, head_dim: int | None = None, kv_heads: int | None = None) -> Sizes:
    """By the keys that most configs have. `head_dim` and `kv_heads`: the config class's own defaults, where it has them;
    otherwise heads share the width, and each has its own keys and values."""
    hidden, num_heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    return Sizes(
        hidden,
        int(config["intermediate_size"]),
        int(config["num_hidden_layers"]),
        num_heads,
        int(config.get("num_key_value_heads") or kv_heads or num_heads),
        int(config.get("head_dim") or head_dim or hidden // num_heads),
        int(config["vocab_size"]),
    )


def linear(name: str, rows: int, columns: int, layer: int | None = None, *, bias: bool = False) -> Iterator[Parameter]:
    """Of an nn.Linear."""
    yield Parameter(f"{name}.weight", (rows, columns), "linear", layer)
    if bias:
        yield Parameter(f"{name}.bias", (rows,), "bias", layer)


def norm(name: str, width: int, layer: int | None = None, *, bias: bool = False) -> Iterator[Parameter]:
    """Of a LayerNorm or an RMSNorm."""
    yield Parameter(f"{name}.weight", (width,), "norm", layer)
    if bias:
        yield Parameter(f"{name}.bias", (width,), "norm", layer)


def head(name: str, rows: int, columns: int, *, bias: bool = False) -> Iterator[Parameter]:
    """Of a linear layer of a head."""
    yield Parameter(f"{name}.weight", (rows, columns), "head")
    if bias:
        yield Parameter(f"{name}.bias", (rows,), "head")
