"""A strategy of another package: two ranks see the same rows, as where one model is spread over several ranks."""

from __future__ import annotations

from launcher.errors import LaunchError
from launcher.strategies.ddp import Ddp


class Pairs(Ddp):
    """DDP whose ranks compute every row twice, so that averaging over them is averaging over the pairs."""

    interface = 1
    name = "pairs"
    joins_cpu_ranks = False

    def data_parallel_size(self, world_size: int) -> int:
        if world_size % 2:
            raise LaunchError(f"{world_size} ranks do not make pairs", hint="use an even number of ranks")
        return world_size // 2

    def data_parallel_rank(self, rank: int, world_size: int) -> int:
        return rank // 2


PAIRS = Pairs()
