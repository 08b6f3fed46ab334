"""Whether any rank was asked to stop, asked of all at little cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from launcher.worker.runtime.stop_signals import received

if TYPE_CHECKING:
    from launcher.worker.runtime.peers import Peers, Sum


ASK_EVERY_S = 0.25
MAX_CALLS = 64
"""Steps or batches that may pass between two questions, however short they are."""


class Question:
    """ "Was any rank asked to stop?" """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._sum: Sum | None = None
        self._kind = self._asked_kind = ""
        self._calls = 0
        self._every = 1
        self._asked_s = time.monotonic()

    def answer(self, kind: str) -> bool:
        """Whether some rank had its signal when this was last asked; for all ranks at the same points.

        Args:
            kind: of the points; those of one kind take about the same time, so that they can be counted instead of
                timed: clocks of ranks would not agree on when to ask.
        """
        if self._peers.size == 1:
            return received() is not None
        if kind != self._kind:
            self._kind, self._every, self._calls = kind, 1, 0
        if self._sum is not None:
            num_told, total_us = self._sum.result()
            self._sum = None
            if num_told:
                return True
            mean_us = max(total_us / self._peers.size, 1.0)
            if self._asked_kind == kind:
                self._every = min(max(int(ASK_EVERY_S * 1e6 / mean_us), 1), MAX_CALLS)
        self._calls += 1
        if self._calls >= self._every:
            now = time.monotonic()
            call_us = int((now - self._asked_s) * 1e6 / self._calls)
            self._sum = self._peers.start_sum(int(received() is not None), call_us)
            self._calls, self._asked_s, self._asked_kind = 0, now, kind
        return False
