"""Whether the texts that an evaluation writes fit beside what a rank holds anyway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.models import geometry
from launcher.planning import fit
from launcher.planning.plan import Batch
from launcher.recipe.schema import RecipeSpec, Strategy, default_new_tokens
from launcher.strategies import table as strategies
from launcher.strategies.peak import FRAMEWORK_BYTES
from launcher.text import gib


def require_room_for_texts(
    recipe: RecipeSpec, needs: Mapping[str, Any], strategy: Strategy, batch: Batch, *, trains: bool
) -> None:
    """The least that writing takes of a card: the weights, in a training the optimizer's states, and the keys and values of
    a batch of the longest prompts.

    Args:
        needs: as `memory_job` has them.
        trains: whether it is an evaluation within a training.

    Raises:
        LaunchError: that is more than a rank can have; the hint is a batch that fits, where one does.
    """
    if recipe.generation is None:
        return
    tokens = _tokens(recipe, needs["config"])
    size = 4 if needs["precision"] == "fp32" else 2
    of_row = (recipe.generation.num_beams or 1) * keys_and_values(needs["config"], tokens=tokens, number_bytes=size)
    held = _held_in_training(needs, strategy, batch) if trains else _share_of_weights(needs, strategy, size)
    room, taken = fit.usable_bytes(needs["hbm_bytes"]), batch.eval_size * of_row
    if held + taken <= room:
        return
    most = (room - held) // of_row
    raise LaunchError(
        "generation: the keys and values of {rows} rows of {tokens} tokens take {taken} of each card, beside {held} that a "
        "rank holds anyway, and a rank can have {room}",
        hint=Message("set parallel.eval_batch_size={most}", most=most)
        if most > 0
        else "set a smaller data.max_length, generation.max_new_tokens or generation.num_beams",
        rows=batch.eval_size,
        tokens=tokens,
        taken=gib(taken),
        held=gib(held),
        room=gib(room),
    )


def keys_and_values(config: Mapping[str, Any], *, tokens: int, number_bytes: int) -> int:
    """Bytes that a row of so many tokens takes while it is written; of layers that see a window, no more than that.

    Raises:
        LaunchError: as `geometry`.
    """
    shape = geometry.geometry(config, has_head=False)
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    kinds = config.get("layer_types") or ["sliding_attention"] * shape.num_layers
    seen = sum(min(tokens, window or tokens) if kind == "sliding_attention" else tokens for kind in kinds)
    return int(2 * seen * shape.num_kv_heads * shape.head_dim * number_bytes)


def _tokens(recipe: RecipeSpec, config: Mapping[str, Any]) -> int:
    """Of the longest prompt and its text."""
    positions = config.get("max_position_embeddings")
    asked = recipe.generation and recipe.generation.max_new_tokens
    tokens = recipe.data.max_length + (asked or default_new_tokens(positions))
    return tokens if positions is None else min(tokens, positions)


def _held_in_training(needs: Mapping[str, Any], strategy: Strategy, batch: Batch) -> int:
    (row,) = fit.table(
        **needs, strategies=(strategy,), micro_batch=batch.micro_size, accumulation=max(1, batch.accumulation)
    )
    parts = row.breakdown
    return parts.weights + parts.optimizer + parts.communication + FRAMEWORK_BYTES


def _share_of_weights(needs: Mapping[str, Any], strategy: Strategy, number_bytes: int) -> int:
    weights = geometry.geometry(needs["config"], has_head=False).num_parameters * number_bytes
    ranks = needs["world_size"] if strategies.load(strategy).shards_parameters else 1
    return int(weights // ranks) + FRAMEWORK_BYTES
