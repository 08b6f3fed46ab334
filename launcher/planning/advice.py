"""Where nothing fits: the smallest change that would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.models.geometry import Lora
from launcher.planning.fit import Row, sensible, usable_bytes
from launcher.strategies.peak import estimate
from launcher.strategies.table import PREFERENCE
from launcher.text import gib


def does_not_fit(
    config: Mapping[str, Any],
    rows: Sequence[Row],
    *,
    hbm_bytes: int,
    world_size: int,
    least: int,
    job: Mapping[str, Any],
) -> LaunchError:
    """What to say where no row fits."""
    nearest = max(rows, key=lambda r: r.margin_bytes)
    what: str = Message(
        "{strategy} needs {total_bytes} per rank, a card has {usable_bytes}",
        strategy=nearest.strategy,
        total_bytes=gib(nearest.breakdown.total_bytes),
        usable_bytes=gib(nearest.usable_bytes),
    )
    if nearest.margin_bytes >= 0:
        what = Message(
            "{strategy} needs {host_bytes_node} of main memory on this node, it has {host_limit_bytes}",
            strategy=nearest.strategy,
            host_bytes_node=gib(nearest.host_bytes_node),
            host_limit_bytes=gib(nearest.host_limit_bytes or 0),
        )
    change = nearest_change(
        config,
        hbm_bytes=hbm_bytes,
        world_size=world_size,
        strategies=[r.strategy for r in rows],
        micro_batch=least,
        **job,
    )
    return LaunchError(
        Message("the job does not fit: {what}", what=what), hint=change or "use a smaller model or larger cards"
    )


def nearest_change(
    config: Mapping[str, Any],
    *,
    hbm_bytes: int,
    world_size: int,
    strategies: Sequence[str],
    micro_batch: int = 1,
    **job: Any,
) -> str | None:
    """The smallest change that makes the job fit, as an instruction; None where none of those known does."""
    limit = usable_bytes(hbm_bytes)

    def fits(**changed: Any) -> str | None:
        now = {"world_size": world_size, "micro_batch": micro_batch, "strategies": strategies, **job, **changed}
        ranks = now.pop("world_size")
        tried = now.pop("strategies")
        for strategy in tried:
            if estimate(config, strategy=strategy, world_size=ranks, **now).total_bytes <= limit:
                return str(strategy)
        return None

    every = sensible(PREFERENCE, world_size)
    if not job.get("gradient_checkpointing") and fits(gradient_checkpointing=True):
        return Message("set training.gradient_checkpointing=true")
    if micro_batch > 1 and fits(micro_batch=1):
        return Message("set parallel.micro_batch_size=1")
    if other := fits(strategies=every):
        return Message("set parallel.strategy={other}", other=other)
    small = {"gradient_checkpointing": True, "micro_batch": 1, "strategies": every}
    if other := fits(**small):
        return Message(
            "set parallel.strategy={other} parallel.micro_batch_size=1 training.gradient_checkpointing=true",
            other=other,
        )
    seq_len = int(job.get("seq_len", 512))
    while seq_len > 128:
        seq_len //= 2
        if other := fits(**small, seq_len=seq_len):
            return Message(
                "set data.max_length={seq_len} parallel.strategy={other} parallel.micro_batch_size=1 "
                "training.gradient_checkpointing=true",
                seq_len=seq_len,
                other=other,
            )
    for ranks in (2, 4, 8, 16, 32, 64):
        if ranks > world_size and (other := fits(**{**small, "strategies": PREFERENCE, "world_size": ranks})):
            return Message(
                "use {ranks} cards with parallel.strategy={other} and training.gradient_checkpointing=true",
                ranks=ranks,
                other=other,
            )
    if job.get("lora") is None and (other := fits(**small, lora=Lora())):
        return Message("train an adapter: adapter.r=8 with parallel.strategy={other}", other=other)
    return None
