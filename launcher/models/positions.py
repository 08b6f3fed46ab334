"""How long a text a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.models.wanted import Wanted

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


def require_positions(config: Mapping[str, Any], wanted: Wanted) -> None:
    bounds = positions(config)
    if bounds is None:
        return
    limit, width = bounds
    padded = -(-wanted.max_length // wanted.pads_to) * wanted.pads_to
    most = limit if -(-limit // wanted.pads_to) * wanted.pads_to <= width else limit // wanted.pads_to * wanted.pads_to
    if wanted.max_length > limit:
        rest = (
            Message(" ({width} rows, of which {limit} are kept for padding)", width=width, limit=width - limit)
            if limit < width
            else ""
        )
        raise LaunchError(
            "data.max_length {max_length} is more than the {limit} positions that {wanted} has{rest}",
            hint="set data.max_length={most} or less",
            max_length=wanted.max_length,
            limit=limit,
            wanted=wanted.name,
            rest=rest,
            most=most,
        )
    if padded > width:
        raise LaunchError(
            "data.max_length {max_length}: on cards batches are padded to a multiple of {pads_to}, here "
            "{padded}, and {wanted} has {width} positions",
            hint="set data.max_length={most} or less",
            max_length=wanted.max_length,
            pads_to=wanted.pads_to,
            padded=padded,
            wanted=wanted.name,
            width=width,
            most=most,
        )


def length_notes(config: Mapping[str, Any], wanted: Wanted) -> Sequence[str]:
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
            Message(
                "data.max_length {max_length} is beyond the {trained} positions that the model was trained "
                "on: longer rows are computed, and badly",
                max_length=wanted.max_length,
                trained=trained,
            ),
        )
    if isinstance(original, int) and wanted.max_length > original:
        return (
            Message(
                "data.max_length {max_length} is beyond the {original} positions that the model was trained "
                "on first; its RoPE scaling ({kind}) reaches to {trained}",
                max_length=wanted.max_length,
                original=original,
                kind=kind,
                trained=trained,
            ),
        )
    return ()
