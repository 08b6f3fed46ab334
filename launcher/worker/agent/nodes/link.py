"""How an agent learns of the other nodes of its job."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from launcher.accelerators.table import Ports
from launcher.planning.plan import Plan
from launcher.rundir.records import Failure

FAILED, STALLED = "failed", "stalled"
Record = dict[str, Any]


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of one attempt find each other's addresses."""

    host: str
    port: int
    attempt: int
    interface: str | None = None
    """The network interface towards the other nodes."""
    hccl_base: int | None = None
    """The first of HCCL's ports, free on every node; None where there is none to choose."""


class Link(Protocol):
    """What the agent needs of the other nodes. Every wait ends early when this node or another is asked to stop."""

    def meet(self) -> None:
        """Wait until every node has come, with the same plan.

        Raises:
            LaunchError: one did not come in time, runs another plan, or is lost.
        """

    def declare(self, prepared: Record) -> None:
        """Say what was prepared here, which has to be the same on every node."""

    def pulse(self, trouble: str) -> str:
        """Tell what is wrong here ('', FAILED or STALLED), and hear what is wrong anywhere."""

    def join(self, attempt: int, own_failure: Failure | None) -> Meeting | Failure | None:
        """Where the next attempt's ranks meet; or the failure before it, on this node (`own_failure`) or another; or
        None where the job is asked to stop. `attempt` is the number this node would give it."""

    def settle(
        self, own_failure: Failure | None, again: Callable[[Failure], bool], recorded: Record
    ) -> tuple[Failure | None, bool]:
        """Report this node's failure, or None for success, and what its ranks recorded of their collectives; the failure
        that counts on all nodes, and whether there is another attempt, for which the first node asks `again`."""

    def give_up(self, own_failure: Failure) -> None:
        """Tell the others that the job ends here, outside of any attempt."""

    def close(self) -> None:
        """Leave, once the others know all they need."""


def port_blocks(plan: Plan, job: str) -> Ports | None:
    """Where the ports of the accelerator's communication library are chosen from; None where nothing is to be chosen."""
    return plan.accelerator.ports(os.environ, job)
