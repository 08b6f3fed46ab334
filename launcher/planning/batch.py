"""Batch sizes: what a rank takes at once, and how often before an optimizer step."""

from __future__ import annotations

from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.messages import Message, plural
from launcher.planning.plan import Batch
from launcher.recipe.load import Loaded
from launcher.recipe.schema import RecipeSpec, Strategy
from launcher.strategies import table as strategies

MAX_MICRO_BATCH = 8


def batch_of(recipe: RecipeSpec, strategy: Strategy, world_size: int, loaded: Loaded, cluster: Cluster) -> Batch:
    total, micro = recipe.parallel.global_batch_size, recipe.parallel.micro_batch_size
    least = 1 if micro == "auto" else micro
    size = strategies.load(strategy).data_parallel_size(world_size)
    unit = size * least
    if total % unit:
        raise _uneven(recipe, size, world_size, loaded, cluster)
    per_rank = total // size
    largest = max(d for d in range(1, min(per_rank, MAX_MICRO_BATCH) + 1) if per_rank % d == 0)
    micro_size = largest if micro == "auto" else micro
    accumulation, eval_size = per_rank // micro_size, evaluation_size(recipe, micro_size)
    return Batch(global_size=total, micro_size=micro_size, accumulation=accumulation, eval_size=eval_size)


def evaluation_size(recipe: RecipeSpec, micro_size: int) -> int:
    asked, micro = recipe.parallel.eval_batch_size, recipe.parallel.micro_batch_size
    least = micro_size if micro == "auto" else micro
    return max(least, MAX_MICRO_BATCH) if asked == "auto" else asked


def _uneven(recipe: RecipeSpec, size: int, world_size: int, loaded: Loaded, cluster: Cluster) -> LaunchError:
    """Of a global batch that `size` shares of ranks cannot take: the nearest sizes and numbers of ranks that can."""
    total, micro = recipe.parallel.global_batch_size, recipe.parallel.micro_batch_size
    least = 1 if micro == "auto" else micro
    unit = size * least
    below, above = total // unit * unit, (total // unit + 1) * unit
    sizes = Message("{below} or {above}", below=below, above=above) if below else f"{above}"
    ranks = [n * (world_size // size) for n in range(1, total + 1) if total % (n * least) == 0]
    counts = (
        Message("{ranks} or {value}", ranks=", ".join(map(str, ranks[:-1])), value=ranks[-1])
        if len(ranks) > 1
        else str(ranks[0])
    )
    parts = plural("{count} rank", "{count} ranks", count=world_size)
    if size < world_size:
        parts = Message("{ranks}, {size} of them with rows of their own", ranks=parts, size=size)
    if cluster.num_nodes > 1:
        parts = Message(
            "{ranks} on {num_nodes} nodes ({source})",
            ranks=parts,
            num_nodes=cluster.num_nodes,
            source=cluster.nodes_source,
        )
    if micro != "auto":
        parts = Message("{ranks} x micro batch {micro}", ranks=parts, micro=micro)
    origin = loaded.origins.get("parallel.global_batch_size", "default")
    where = "" if origin == "default" else f"{origin}: "
    return LaunchError(
        "{where}parallel.global_batch_size {total} cannot be split evenly over {parts}",
        hint=plural(
            "use parallel.global_batch_size={sizes}, or {counts} rank",
            "use parallel.global_batch_size={sizes}, or {counts} ranks",
            count=len(ranks),
            sizes=sizes,
            counts=counts,
        ),
        where=where,
        total=total,
        parts=parts,
    )
