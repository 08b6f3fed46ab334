"""How ranks agree on small things: over the host's network, so that no card has to empty its queue for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


class Peers:
    """The job's ranks on a gloo group of their own. Making it, and every method, is for all ranks at the same point."""

    def __init__(self, *, timeout_s: float = 1800) -> None:
        joined = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # A group apart, since these calls are under way while the engine's own collectives come and go.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)) if joined else None
        self.size = dist.get_world_size() if joined else 1
        self.index = dist.get_rank() if joined else 0

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def gather_to_first(self, value: Any) -> list[Any] | None:
        """Every rank's value, in rank order, on the first rank; None on the others."""
        if self._group is None:
            return [value]
        values: list[Any] | None = [None] * self.size if self.index == 0 else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values

    def gather_numbers(self, numbers: Sequence[float]) -> list[list[float]]:
        """Every rank's numbers, in rank order, on every rank; each gives as many."""
        mine = torch.tensor(numbers, dtype=torch.float64)
        if self._group is None:
            return [mine.tolist()]
        gathered = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(gathered, mine, group=self._group)
        return [row.tolist() for row in gathered]

    def from_first(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def start_sum(self, *numbers: int) -> Sum:
        """Begin to add numbers of each rank; the results can be asked for later."""
        total = torch.tensor(numbers, dtype=torch.int64)
        work = dist.all_reduce(total, group=self._group, async_op=True) if self._group is not None else None
        return Sum(total, work)


class Sum:
    """Sums over ranks that are under way."""

    def __init__(self, total: torch.Tensor, work: Any) -> None:
        self._total, self._work = total, work

    def result(self) -> list[int]:
        """Wait for them."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._total.tolist()
