"""Notes of a plan: what is worth knowing, and stops nothing."""

from __future__ import annotations

import re

from launcher.accelerators import table as accelerators
from launcher.machine.cluster import Cluster
from launcher.messages import Message
from launcher.planning.plan import Options
from launcher.recipe.schema import RecipeSpec, Strategy
from launcher.strategies import table as strategies


def lone_notes(cluster: Cluster, options: Options) -> tuple[str, ...]:
    """accelerate joins CPU ranks where ACCELERATE_USE_CPU says so, which its launch sets with neither DeepSpeed nor FSDP."""
    if options.strategy is None or strategies.load(options.strategy).joins_cpu_ranks:
        return ()
    if accelerators.load(cluster.device).has_cards:
        return ()
    return (
        Message(
            "--strategy {strategy} on CPU: a plain Accelerator() may not join its peers, and each rank "
            "then trains alone; --strategy ddp joins them",
            strategy=options.strategy,
        ),
    )


OVERLAP_SINCE = (0, 19, 3)
"""The DeepSpeed whose overlap_comm can be relied on together with contiguous_gradients. Before it, a bucket could be reduced
before all streams had written to it (DeepSpeed pull request 8080, first in 0.19.3), or given back while still in use
(7965, first in 0.19.0): gradients, and then the loss, became NaN or wrong (issues 7188, 8061)."""


def overlaps_communication(recipe: RecipeSpec, cluster: Cluster, options: Options) -> bool:
    asked = recipe.parallel.deepspeed
    if asked is not None and asked.overlap_comm is not None:
        return asked.overlap_comm
    release = re.match(r"(\d+)\.(\d+)\.(\d+)", options.deepspeed_version or "")
    return (
        accelerators.load(cluster.device).has_cards
        and release is not None
        and tuple(map(int, release.groups())) >= OVERLAP_SINCE
    )


def unused_notes(recipe: RecipeSpec, strategy: Strategy) -> tuple[str, ...]:
    if recipe.parallel.deepspeed is None or strategies.load(strategy).needs_deepspeed:
        return ()
    return (Message("parallel.deepspeed has no effect: the strategy taken is {strategy}", strategy=strategy),)
