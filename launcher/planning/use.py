"""Plans of a job that only uses a model: evaluation and prediction."""

from __future__ import annotations

from typing import Any

from launcher.accelerators import table as accelerators
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.messages import Message, joined, plural
from launcher.models import geometry
from launcher.planning import fit
from launcher.planning.arguments import NO_EVALUATION, unscheduled
from launcher.planning.plan import Use
from launcher.recipe.load import Loaded
from launcher.recipe.schema import RecipeSpec, Strategy
from launcher.strategies import table as strategies
from launcher.text import GIB


def use_strategy(recipe: RecipeSpec, use: Use) -> tuple[Strategy, str]:
    """Without gradients and optimizer only a strategy that shards weights has something to shard.

    Raises:
        LaunchError: the weights of an adapter's model are to be shared out.
    """
    if use.shares_weights:
        if recipe.adapter is not None:
            raise LaunchError(
                "an adapter's model cannot be shared out over ranks", hint="merge it first: ascend-launch export"
            )
        return strategies.most_sharded().name, Message("as --shard says: every rank holds a share of the weights")
    asked = strategies.chosen(recipe.parallel.strategy)
    evaluates = strategies.load(asked.evaluates_as) if asked is not None else None
    if use.mode == "eval" and evaluates is not None and evaluates.shards_parameters and recipe.adapter is None:
        return evaluates.name, Message("as the recipe says: every rank holds a share of the weights")
    return strategies.WHOLE, Message(
        "every rank holds the model whole; nothing is trained, so there is no other state to shard"
    )


def require_room_for_weights(needs: dict[str, Any], use: Use, strategy: Strategy) -> None:
    """The least that an evaluation or a prediction takes of a card: its weights, in the precision that is computed in.

    Raises:
        LaunchError: they alone are more than a rank can have.
    """
    shape = geometry.geometry(
        needs["config"], has_head=needs["has_head"], num_labels=needs["num_labels"], of_words=needs["of_words"]
    )
    size = shape.num_parameters * (4 if needs["precision"] == "fp32" else 2)
    is_sharded = strategies.load(strategy).shards_parameters
    share = size / needs["world_size"] if is_sharded else size
    room = fit.usable_bytes(needs["hbm_bytes"])
    if share > room:
        can_shard = not is_sharded and size / needs["world_size"] < room
        by_recipe = Message(
            "parallel.strategy={most_sharded} shares them out", most_sharded=strategies.most_sharded().name
        )
        hint = by_recipe if use.mode == "eval" else Message("--shard shares them out") if use.chats else None
        raise LaunchError(
            Message(
                "the weights alone take {share:.1f} GiB of each card, and a rank can have {room:.1f} GiB",
                share=share / GIB,
                room=room / GIB,
            ),
            hint=hint if hint and can_shard else "use cards with more memory, or a smaller model",
        )


def require_effect(loaded: Loaded, cluster: Cluster, strategy: Strategy | None) -> None:
    """Refuse what this strategy or device would ignore, or cannot have. `strategy`: None where nothing is trained.

    Raises:
        LaunchError: with all of them, a line each.
    """
    training = loaded.spec.training if strategy is not None else {}
    wrong = dict(strategies.load(strategy).ignored_arguments()) if strategy is not None else {}
    problems = {f"training.{name}": reason for name, reason in wrong.items() if training.get(name)}
    problems |= accelerators.load(cluster.device).problems(training, loaded.spec.model.attn_implementation)
    if problems:
        lines = [
            Message(
                "{origin}: {key}: {reason}",
                origin=loaded.origins.get(key, "recipe").removesuffix(f" {key}"),
                key=key,
                reason=reason,
            )
            for key, reason in problems.items()
        ]
        raise LaunchError(joined(lines, "\n"), hint=plural("leave it out", "leave them out", count=len(lines)))


def use_arguments(recipe: RecipeSpec, use: Use, strategy: Strategy) -> dict[str, Any]:
    training = recipe.training
    arguments: dict[str, Any] = {
        "do_train": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        **NO_EVALUATION,
    }
    if "activation_checkpointing" in training:  # the newer name, which wins where both are
        arguments["activation_checkpointing"] = False
    arguments |= unscheduled(training)
    trained_by = strategies.load(use.trained_by) if use.trained_by is not None else None
    if trained_by and trained_by.computes_in_weights and not strategies.load(strategy).computes_in_weights:
        arguments |= {"bf16": False, "fp16": False}  # no autocast over weights that are in that precision themselves
    return arguments
