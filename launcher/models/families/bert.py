"""Encoders after BERT: learned positions, LayerNorm after each half of a block, biases everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from launcher.models.families import base
from launcher.models.families.base import Config, Parameter, Sizes, Traits


@dataclass(frozen=True)
class Bert:
    """BERT itself, and those that name their parts as it does."""

    prefix: str = "bert"

    def traits(self, config: Config) -> Traits:
        return Traits("encoder")

    def sizes(self, config: Config) -> Sizes:
        return base.sizes(config)

    def parameters(
        self, config: Config, sizes: Sizes, num_labels: int | None, *, of_words: bool = False
    ) -> Iterator[Parameter]:
        yield from self.embeddings(config, sizes)
        for layer in range(sizes.num_layers):
            yield from self.block(config, sizes, layer)
        yield from self.top(config, sizes)
        if num_labels is not None and of_words:
            yield from base.head("classifier", num_labels, sizes.hidden, bias=True)
        elif num_labels is not None:
            yield from self.classifier(config, sizes, num_labels)
        else:
            yield from self.language_head(config, sizes)

    def embeddings(self, config: Config, sizes: Sizes) -> Iterator[Parameter]:
        prefix = f"{self.prefix}.embeddings"
        rows = {
            "word": sizes.vocab,
            "position": int(config.get("max_position_embeddings") or 512),
            "token_type": int(config.get("type_vocab_size", 2)),
        }
        for name, count in rows.items():
            yield Parameter(f"{prefix}.{name}_embeddings.weight", (count, sizes.hidden), "embedding")
        yield from base.norm(f"{prefix}.LayerNorm", sizes.hidden, bias=True)

    def block(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        prefix, width = f"{self.prefix}.encoder.layer.{layer}", sizes.num_heads * sizes.head_dim
        for name in self.projections:
            yield from base.linear(f"{prefix}.attention.self.{name}", width, sizes.hidden, layer, bias=True)
        for name, rows, columns in (
            ("attention.output.dense", sizes.hidden, sizes.hidden),
            ("intermediate.dense", sizes.intermediate, sizes.hidden),
            ("output.dense", sizes.hidden, sizes.intermediate),
        ):
            yield from base.linear(f"{prefix}.{name}", rows, columns, layer, bias=True)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            yield from base.norm(f"{prefix}.{name}", sizes.hidden, layer, bias=True)

    projections = ("query", "key", "value")

    def top(self, config: Config, sizes: Sizes) -> Iterator[Parameter]:
        """What stands above the blocks whatever the head is."""
        yield from ()

    def classifier(self, config: Config, sizes: Sizes, num_labels: int) -> Iterator[Parameter]:
        yield from base.linear(f"{self.prefix}.pooler.dense", sizes.hidden, sizes.hidden, bias=True)
        yield from base.head("classifier", num_labels, sizes.hidden, bias=True)

    def language_head(self, config: Config, sizes: Sizes) -> Iterator[Parameter]:
        yield Parameter("cls.predictions.bias", (sizes.vocab,), "bias")
        yield from base.linear("cls.predictions.transform.dense", sizes.hidden, sizes.hidden, bias=True)
        yield from base.norm("cls.predictions.transform.LayerNorm", sizes.hidden, bias=True)
        if not config.get("tie_word_embeddings", True):
            yield from base.head("cls.predictions.decoder", sizes.vocab, sizes.hidden)


@dataclass(frozen=True)
class Roberta(Bert):
    """RoBERTa and XLM-RoBERTa: a classifier of two layers instead of the pooler."""

    prefix: str = "roberta"

    def classifier(self, config: Config, sizes: Sizes, num_labels: int) -> Iterator[Parameter]:
        yield from base.head("classifier.dense", sizes.hidden, sizes.hidden, bias=True)
        yield from base.head("classifier.out_proj", num_labels, sizes.hidden, bias=True)

    def language_head(self, config: Config, sizes: Sizes) -> Iterator[Parameter]:
        yield Parameter("lm_head.bias", (sizes.vocab,), "bias")
        yield from base.linear("lm_head.dense", sizes.hidden, sizes.hidden, bias=True)
        yield from base.norm("lm_head.layer_norm", sizes.hidden, bias=True)
        if not config.get("tie_word_embeddings", True):
            yield from base.head("lm_head.decoder", sizes.vocab, sizes.hidden)


@dataclass(frozen=True)
class Deberta(Bert):
    """DeBERTa v2 and v3: relative positions, which all blocks share, and a convolution beside the first block."""

    prefix: str = "deberta"

    projections = ("query_proj", "key_proj", "value_proj")

    def sizes(self, config: Config) -> Sizes:
        return base.sizes({**config, "head_dim": config.get("attention_head_size")})

    def embeddings(self, config: Config, sizes: Sizes) -> Iterator[Parameter]:
        prefix, width = f"{self.prefix}.embeddings", int(config.get("embedding_size") or sizes.hidden)
        rows = {"word": sizes.vocab}
        if config.get("position_biased_input", True):
            rows["position"] = int(config.get("max_position_embeddings") or 512)
        if config.get("type_vocab_size"):
            rows["token_type"] = int(config["type_vocab_size"])
        for name, count in rows.items():
            yield Parameter(f"{prefix}.{name}_embeddings.weight", (count, width), "embedding")
        if width != sizes.hidden:
            yield from base.linear(f"{prefix}.embed_proj", sizes.hidden, width)
        yield from base.norm(f"{prefix}.LayerNorm", sizes.hidden, bias=True)

    def block(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        yield from super().block(config, sizes, layer)
        if not config.get("relative_attention") or config.get("share_att_key"):
            return
        prefix, width = f"{self.prefix}.encoder.layer.{layer}.attention.self", sizes.num_heads * sizes.head_dim
        kinds = config.get("pos_att_type") or ()
        kinds = kinds.split("|") if isinstance(kinds, str) else kinds
        for kind, name in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
            if kind in [str(text).strip().lower() for text in kinds]:
                yield from base.linear(f"{prefix}.{name}", width, sizes.hidden, layer, bias=True)

    def top(self, config: Config, sizes: Sizes) -> Iterator[Parameter]:
        prefix = f"{self.prefix}.encoder"
        if config.get("relative_attention"):
            reach = int(config.get("position_buckets", -1))
            if reach < 1:
                reach = int(config.get("max_relative_positions", -1))
            if reach < 1:
                reach = int(config.get("max_position_embeddings") or 512)
            yield Parameter(f"{prefix}.rel_embeddings.weight", (2 * reach, sizes.hidden), "embedding")
        if "layer_norm" in str(config.get("norm_rel_ebd", "none")).lower():
            yield from base.norm(f"{prefix}.LayerNorm", sizes.hidden, bias=True)
        if kernel := int(config.get("conv_kernel_size", 0)):
            groups = int(config.get("conv_groups", 1))
            shape = (sizes.hidden, sizes.hidden // groups, kernel)
            yield Parameter(f"{prefix}.conv.conv.weight", shape, "stacked")
            yield Parameter(f"{prefix}.conv.conv.bias", (sizes.hidden,), "bias")
            yield from base.norm(f"{prefix}.conv.LayerNorm", sizes.hidden, bias=True)

    def classifier(self, config: Config, sizes: Sizes, num_labels: int) -> Iterator[Parameter]:
        width = int(config.get("pooler_hidden_size") or sizes.hidden)
        yield from base.linear("pooler.dense", width, width, bias=True)
        yield from base.head("classifier", num_labels, width, bias=True)

    def language_head(self, config: Config, sizes: Sizes) -> Iterator[Parameter]:
        raise NotImplementedError


@dataclass(frozen=True)
class Distilbert(Bert):
    """Half of BERT's blocks, under names of its own."""

    prefix: str = "distilbert"

    def sizes(self, config: Config) -> Sizes:
        hidden, heads = int(config["dim"]), int(config["n_heads"])
        layers, vocab = int(config["n_layers"]), int(config["vocab_size"])
        return Sizes(hidden, int(config["hidden_dim"]), layers, heads, heads, hidden // heads, vocab)

    def embeddings(self, config: Config, sizes: Sizes) -> Iterator[Parameter]:
        prefix = f"{self.prefix}.embeddings"
        for name, count in (("word", sizes.vocab), ("position", int(config.get("max_position_embeddings") or 512))):
            yield Parameter(f"{prefix}.{name}_embeddings.weight", (count, sizes.hidden), "embedding")
        yield from base.norm(f"{prefix}.LayerNorm", sizes.hidden, bias=True)

    def block(self, config: Config, sizes: Sizes, layer: int) -> Iterator[Parameter]:
        prefix = f"{self.prefix}.transformer.layer.{layer}"
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            yield from base.linear(f"{prefix}.attention.{name}", sizes.hidden, sizes.hidden, layer, bias=True)
        yield from base.norm(f"{prefix}.sa_layer_norm", sizes.hidden, layer, bias=True)
        yield from base.linear(f"{prefix}.ffn.lin1", sizes.intermediate, sizes.hidden, layer, bias=True)
        yield from base.linear(f"{prefix}.ffn.lin2", sizes.hidden, sizes.intermediate, layer, bias=True)
        yield from base.norm(f"{prefix}.output_layer_norm", sizes.hidden, layer, bias=True)

    def classifier(self, config: Config, sizes: Sizes, num_labels: int) -> Iterator[Parameter]:
        yield from base.linear("pre_classifier", sizes.hidden, sizes.hidden, bias=True)
        yield from base.head("classifier", num_labels, sizes.hidden, bias=True)

    def language_head(self, config: Config, sizes: Sizes) -> Iterator[Parameter]:
        raise NotImplementedError


BERT = Bert()
ROBERTA = Roberta()
DEBERTA = Deberta()
DISTILBERT = Distilbert()
