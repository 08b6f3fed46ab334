"""A job of one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launcher.machine.nodes import split_endpoint
from launcher.planning.plan import Plan
from launcher.rundir.records import Failure
from launcher.worker.agent import collectives
from launcher.worker.agent.nodes.link import Meeting, Record, port_blocks
from launcher.worker.agent.nodes.store import ranks_store


class OneNode:
    """A single node: the agent serves the ranks' store itself, on a port that the kernel chose."""

    def __init__(self, plan: Plan, job: str) -> None:
        self._store: Any = None
        self._port = split_endpoint(plan.rdzv_endpoint)[1] if plan.rdzv_endpoint else 0
        self._blocks = port_blocks(plan, job)

    def meet(self) -> None:
        return

    def declare(self, prepared: Record) -> None:
        return

    def pulse(self, trouble: str) -> str:
        return trouble

    def join(self, attempt: int, own_failure: Failure | None) -> Meeting | Failure | None:
        if own_failure is not None:
            return own_failure
        self._store = None  # the last one has the port, where one was asked for
        self._store = ranks_store("127.0.0.1", self._port)
        base = None
        if self._blocks is not None:
            base = next(iter(self._blocks.offer(1)), None)
        return Meeting("127.0.0.1", self._store.port, attempt, None, base)

    def settle(
        self, own_failure: Failure | None, again: Callable[[Failure], bool], recorded: Record
    ) -> tuple[Failure | None, bool]:
        decided = collectives.explained(own_failure, [recorded])
        return decided, decided is not None and again(decided)

    def give_up(self, own_failure: Failure) -> None:
        return

    def close(self) -> None:
        self._store = None
