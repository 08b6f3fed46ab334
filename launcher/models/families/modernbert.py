"""ModernBERT: an encoder with rotary positions, norms before each half, and a gated MLP."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.models.families import base
from launcher.models.families.base import Config, Parameter, Sizes, Traits


class ModernBert:
    def traits(self, config: Config) -> Traits:
        return Traits()

    def sizes(self, config: Config) -> Sizes:
        return base.sizes(config)

    def parameters(
        self, config: Config, sizes: Sizes, num_labels: int | None, *, of_words: bool = False
    ) -> Iterator[Parameter]:
        if num_labels is None:
            raise NotImplementedError
        hidden, inner = sizes.hidden, sizes.intermediate
        attention, mlp, norms = (bool(config.get(f"{name}_bias", False)) for name in ("attention", "mlp", "norm"))
        yield Parameter("model.embeddings.tok_embeddings.weight", (sizes.vocab, hidden), "embedding")
        yield from base.norm("model.embeddings.norm", hidden, bias=norms)
        for layer in range(sizes.num_layers):
            prefix = f"model.layers.{layer}"
            if layer:  # the first block begins with the norm of the embeddings
                yield from base.norm(f"{prefix}.attn_norm", hidden, layer, bias=norms)
            yield from base.linear(f"{prefix}.attn.Wqkv", 3 * hidden, hidden, layer, bias=attention)
            yield from base.linear(f"{prefix}.attn.Wo", hidden, hidden, layer, bias=attention)
            yield from base.norm(f"{prefix}.mlp_norm", hidden, layer, bias=norms)
            yield from base.linear(f"{prefix}.mlp.Wi", 2 * inner, hidden, layer, bias=mlp)
            yield from base.linear(f"{prefix}.mlp.Wo", hidden, inner, layer, bias=mlp)
        yield from base.norm("model.final_norm", hidden, bias=norms)
        bias = bool(config.get("classifier_bias", False))
        yield from base.linear("head.dense", hidden, hidden, bias=bias)
        yield from base.norm("head.norm", hidden, bias=norms)
        yield from base.head("classifier", num_labels, hidden, bias=True)


MODERNBERT = ModernBert()
