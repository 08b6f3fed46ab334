"""The strategy before memory is computed, and where it cannot be: by the number of parameters alone."""

from __future__ import annotations

import itertools

from launcher.accelerators import table as accelerators
from launcher.machine.cluster import Cluster
from launcher.messages import Message
from launcher.models.wanted import About
from launcher.planning import fit
from launcher.recipe.schema import RecipeSpec, Strategy
from launcher.strategies import table as strategies
from launcher.text import GIB

STATE_SHARE = 0.6
"""Of a card, what weights, gradients and optimizer may take where activations cannot be computed."""


def unmeasured_strategy(
    recipe: RecipeSpec,
    cluster: Cluster,
    world_size: int,
    precision: str,
    why: str,
    about: About | None,
) -> tuple[Strategy, str]:
    """What the recipe asks for, or a guess by the number of parameters. `why` says what keeps memory from being computed."""
    asked = recipe.parallel.strategy
    if asked != "auto":
        return asked, Message("as the recipe says")
    if world_size == 1:
        return strategies.WHOLE, "one rank has nobody to share with"
    if not accelerators.load(cluster.device).has_cards:
        return strategies.WHOLE, "CPU ranks share this machine's memory, so sharding saves little"
    sharded = strategies.most_sharded()
    count = about.num_parameters if about else None
    hbm_bytes = min((d.hbm_bytes for d in cluster.devices), default=0)
    if recipe.adapter is not None and (count is None or count * 2 <= fit.usable_bytes(hbm_bytes) * STATE_SHARE):
        return strategies.WHOLE, Message("LoRA trains few weights, so sharding their state saves little")
    if count is None or not hbm_bytes:
        return sharded.name, Message("{why}, so everything is sharded: weights, gradients and optimizer state", why=why)
    share = fit.usable_bytes(hbm_bytes) * STATE_SHARE
    basis = (
        Message("{why}; {count} parameters", why=why, count=_count(count))
        if about and about.is_counted
        else Message("{why}; about {count} parameters", why=why, count=_count(count))
    )
    for strategy in itertools.takewhile(lambda s: s is not sharded, map(strategies.load, strategies.PREFERENCE)):
        need = strategy.state_bytes(count, world_size, precision)
        if need <= share:
            return (
                strategy.name,
                Message(
                    "{text}: weights, gradients and optimizer take {need:.1f} GiB of a card under it",
                    text=basis,
                    need=need / GIB,
                ),
            )
    return sharded.name, Message(
        "{text}: too many for less than sharding weights, gradients and optimizer state", text=basis
    )


def _count(number: int) -> str:
    return (
        Message("{number:.1f} billion", number=number / 1e9)
        if number >= 1e9
        else Message("{number:.0f} million", number=number / 1e6)
    )
