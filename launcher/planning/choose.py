"""Which strategy and micro batch `auto` takes, by memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.messages import Message
from launcher.planning.advice import does_not_fit
from launcher.planning.fit import Row, largest_micro_batch, table
from launcher.strategies.table import PREFERENCE
from launcher.text import gib


@dataclass(frozen=True)
class Choice:
    """What `auto` takes, and why."""

    strategy: str
    micro_batch: int
    reason: str
    rows: tuple[Row, ...]


def choose_strategy(
    config: Mapping[str, Any],
    *,
    hbm_bytes: int,
    world_size: int,
    per_rank_batch: int = 1,
    max_micro_batch: int = 8,
    strategies: Sequence[str] = PREFERENCE,
    micro_batch: int | None = None,
    **job: Any,
) -> Choice:
    """The fastest strategy that fits with a micro batch of one, then the largest micro batch that fits under it.

    Args:
        per_rank_batch: a rank's share of the global batch; micro batches are its divisors.
        micro_batch: the recipe's own, which then is not changed.
        strategies: the recipe's own as the only one, or all.

    Raises:
        LaunchError: nothing fits; the hint is the nearest change that would.
    """
    host = {k: job.pop(k, None) for k in ("nproc_per_node", "host_memory_bytes")}
    least = micro_batch or 1
    job.setdefault("accumulation", max(1, per_rank_batch // least))
    rows = table(
        config, hbm_bytes=hbm_bytes, world_size=world_size, micro_batch=least, strategies=strategies, **host, **job
    )
    taken = next((r for r in rows if r.fits), None)
    if taken is None:
        raise does_not_fit(config, rows, hbm_bytes=hbm_bytes, world_size=world_size, least=least, job=job)
    best = micro_batch
    if best is None:
        sizes = [d for d in range(1, min(per_rank_batch, max_micro_batch) + 1) if per_rank_batch % d == 0]
        best = least
        for size in sorted(sizes):
            now = {**job, "accumulation": per_rank_batch // size}
            if largest_micro_batch(
                config, hbm_bytes=hbm_bytes, strategy=taken.strategy, candidates=[size], world_size=world_size, **now
            ):
                best = size
    return Choice(taken.strategy, best, _reason(rows, taken), tuple(rows))


def _reason(rows: Sequence[Row], taken: Row) -> str:
    need = Message(
        "{strategy} needs {total_bytes} of {usable_bytes}",
        strategy=taken.strategy,
        total_bytes=gib(taken.breakdown.total_bytes),
        usable_bytes=gib(taken.usable_bytes),
    )
    missed = [r for r in rows if not r.fits and rows.index(r) < rows.index(taken)]
    if not missed:
        return Message("{need}: the fastest strategy, and it fits", need=need)
    return Message(
        "{need}; faster ones do not fit: {missed}",
        need=need,
        missed=", ".join(f"{r.strategy} {gib(r.breakdown.total_bytes)}" for r in missed),
    )
