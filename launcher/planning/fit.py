"""Does it fit? Every strategy's memory beside what a rank can have of a card and of its node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.accelerators.ascend.chips import Chip
from launcher.errors import LaunchError
from launcher.strategies.breakdown import Breakdown
from launcher.strategies.peak import estimate
from launcher.strategies.table import PREFERENCE, Speed, load
from launcher.text import GIB

_CARD_LOSS_BYTES = {64: int(3.5 * GIB), 32: 4 * GIB}
"""What a process cannot have of a nominal card: "64 GB" shows 60.96 to 61.27 GiB, "32 GB" 28.5 to 29 (public reports)."""


def usable_bytes(hbm_bytes: int) -> int:
    """What one process can have of a card of this nominal size."""
    nominal_gib = round(hbm_bytes / GIB)
    return max(0, hbm_bytes - _CARD_LOSS_BYTES.get(nominal_gib, max(int(3.5 * GIB), hbm_bytes // 16)))


@dataclass(frozen=True)
class Row:
    """One strategy of the plan's table."""

    breakdown: Breakdown
    usable_bytes: int
    micro_batch: int
    host_bytes_node: int = 0
    """Main memory that this node's ranks need together."""
    host_limit_bytes: int | None = None

    @property
    def strategy(self) -> str:
        return self.breakdown.strategy

    @property
    def margin_bytes(self) -> int:
        """What is left; below zero, what is missing."""
        return self.usable_bytes - self.breakdown.total_bytes

    @property
    def fits(self) -> bool:
        has_host = self.host_limit_bytes is None or self.host_bytes_node <= self.host_limit_bytes
        return self.margin_bytes >= 0 and has_host

    @property
    def speed(self) -> Speed:
        return load(self.strategy).speed

    def to_json(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy,
            "fits": self.fits,
            "margin_bytes": self.margin_bytes,
            "usable_bytes": self.usable_bytes,
            "micro_batch": self.micro_batch,
            "host_bytes_node": self.host_bytes_node,
            "traffic": self.speed.traffic,
            "measured_speed": self.speed.measured,
            **self.breakdown.to_json(),
        }


def load_host_bytes(breakdown: Breakdown, precision: str, *, has_adapter: bool = False) -> int:
    """Main memory that one rank needs while loading."""
    how = load(breakdown.strategy)
    return how.load_host_bytes(breakdown.num_parameters, precision, has_adapter=has_adapter)


def sensible(names: Sequence[str], world_size: int) -> list[str]:
    """Those that make sense for so many ranks; all where none does, for it was asked for by name."""
    return [name for name in names if world_size > 1 or load(name).is_for_one_rank] or list(names)


def table(
    config: Mapping[str, Any],
    *,
    hbm_bytes: int,
    world_size: int,
    nproc_per_node: int | None = None,
    host_memory_bytes: int | None = None,
    strategies: Sequence[str] = PREFERENCE,
    micro_batch: int = 1,
    **job: Any,
) -> list[Row]:
    """One row per strategy that makes sense for the number of ranks, fastest first. `job` goes to `estimate`."""
    nproc = nproc_per_node or world_size
    rows = []
    for strategy in sensible(strategies, world_size):
        memory = estimate(config, strategy=strategy, world_size=world_size, micro_batch=micro_batch, **job)
        loading = load_host_bytes(memory, job.get("precision", "bf16"), has_adapter=job.get("lora") is not None)
        host = nproc * max(memory.host_bytes, loading)
        rows.append(Row(memory, usable_bytes(hbm_bytes), micro_batch, host, host_memory_bytes))
    return rows


def largest_micro_batch(
    config: Mapping[str, Any],
    *,
    hbm_bytes: int,
    strategy: str,
    candidates: Iterable[int],
    world_size: int = 1,
    **job: Any,
) -> int | None:
    """The largest of `candidates` (usually the divisors of a rank's share of the global batch) that fits; None if none."""
    limit = usable_bytes(hbm_bytes)
    for micro_batch in sorted(set(candidates), reverse=True):
        memory = estimate(config, strategy=strategy, world_size=world_size, micro_batch=micro_batch, **job)
        if memory.total_bytes <= limit:
            return micro_batch
    return None


def hbm_of(chip: Chip, hbm_bytes: int | None = None) -> int:
    """The memory to plan with for a chip: what the card itself says, else the nominal size.

    Raises:
        LaunchError: the chip cannot train, or comes in several sizes and nobody said which.
    """
    if not chip.trainable:
        raise LaunchError(
            "{soc} is for inference: it has no links for training", hint="use a 910 or 950 card", soc=chip.soc
        )
    size = hbm_bytes or chip.hbm_gib * GIB
    if not size:
        raise LaunchError("{soc} comes with several sizes of memory", hint="say which: --hbm 64", soc=chip.soc)
    return size
