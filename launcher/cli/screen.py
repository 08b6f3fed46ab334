"""--redirects, --tee and --local-ranks-filter of torchrun: which streams of which local ranks have a log of their own, and
which are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass

from launcher.errors import LaunchError
from launcher.planning.plan import Plan
from launcher.show.program import BOTH, STDERR, STDOUT, Source

VALUE = re.compile(r"[0123]|\d+:[0123](,\d+:[0123])*", re.ASCII)
"""torchrun's own: 1 for standard output, 2 for standard error, 3 for both, 0 for neither."""


@dataclass(frozen=True)
class Streams:
    """What the three options say."""

    redirects: str = "0"
    tee: str = "0"
    local_ranks_filter: str = ""

    def check(self) -> None:
        """Raises LaunchError for a value that torchrun has no meaning for."""
        for name, value in (("redirects", self.redirects), ("tee", self.tee)):
            if not VALUE.fullmatch(value):
                raise LaunchError(
                    "--{name} {value}: is none of torchrun's values",
                    hint="use --{name} 1 (standard output), 2 (standard error) or 3 (both), or 0:1,1:3 for some local "
                    "ranks",
                    name=name,
                    value=value,
                )
        if self.local_ranks_filter and not re.fullmatch(r"\d+(,\d+)*", self.local_ranks_filter, re.ASCII):
            raise LaunchError(
                "--local-ranks-filter {local_ranks_filter}: is not a list of local ranks",
                hint="as in 0,1",
                local_ranks_filter=self.local_ranks_filter,
            )

    def separate(self, num_local: int) -> tuple[int, ...]:
        """Local ranks that --redirects or --tee names: each stream of theirs has a log."""
        return tuple(r for r in range(num_local) if _of(self.redirects, r) | _of(self.tee, r))

    def of_node(self, num_local: int, node_rank: int, *, is_among_others: bool) -> tuple[Source, ...]:
        """What is shown of a node; among others, whose output goes to one screen, nothing that only concerns the first."""
        shown = self.shown(num_local, node_rank * num_local)
        if node_rank and is_among_others:
            return tuple(source for source in shown if source.prefixed or source.stream != BOTH)
        return shown

    def of_plan(self, plan: Plan) -> tuple[Source, ...]:
        """What is shown of a job whose nodes share one screen."""
        nodes = range(plan.num_nodes)
        return tuple(s for i in nodes for s in self.of_node(plan.nproc_per_node, i, is_among_others=True))

    def shown(self, num_local: int, first_rank: int) -> tuple[Source, ...]:
        """What is shown. A stream of --tee has each line's rank before it, and one of --redirects is kept off the screen; the
        other stream of a rank that they name is shown as it comes, as torchrun does. Of ranks that neither names it is the
        first one's output, where no other's is asked for."""
        wanted = {int(word) for word in self.local_ranks_filter.split(",") if word}
        separate = self.separate(num_local)
        teed = any(_of(self.tee, r) for r in range(num_local))
        others = [r for r in range(num_local) if r not in separate and (r in wanted if wanted else r == 0 and not teed)]
        sources = [Source(first_rank + r, BOTH, prefixed=len(others) > 1 or teed) for r in others]
        for rank in separate:
            tee, kept_off = _of(self.tee, rank), _of(self.redirects, rank)
            if not wanted or rank in wanted:
                sources += [
                    Source(first_rank + rank, stream, prefixed=bool(tee & stream))
                    for stream in (STDOUT, STDERR)
                    if tee & stream or not kept_off & stream
                ]
        return tuple(sorted(sources, key=lambda source: (source.rank, source.stream)))


def _of(value: str, local_rank: int) -> int:
    """A local rank's streams by a value of --tee or --redirects; of a rank that is named twice the last counts."""
    if ":" not in value:
        return int(value)
    return {int(r): int(v) for r, _, v in (part.partition(":") for part in value.split(","))}.get(local_rank, 0)
