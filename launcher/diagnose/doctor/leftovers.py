"""Processes that a job of this user's, now over, has left behind, and that hold what a launch would use: who they are, and
their end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from launcher.accelerators import table as accelerators
from launcher.checks import Context, Finding, ok
from launcher.errors import LaunchError
from launcher.machine import processes
from launcher.machine.nodes import split_endpoint
from launcher.machine.processes import Running
from launcher.messages import Message, joined

NAME = "leftovers"
FREED_S = 10
"""A driver may take so long to let go of a card whose process has ended."""


def found(ctx: Context) -> list[Running]:
    """Every process of a job that is over and has a process on a card or a port that a launch would use; this user's alone."""
    seen = ctx.processes()
    listeners = [seen.running.get(seen.listening.get(port, 0)) for port in _ports(ctx)]
    holders = [*filter(None, listeners), *accelerators.load(ctx.device).holders(ctx)]
    jobs = {p.pid: p for holder in holders if seen.is_left_over(holder) for p in seen.job_of(holder)}
    return list(jobs.values())


def _ports(ctx: Context) -> list[int]:
    ports = list(accelerators.load(ctx.device).fixed_ports(ctx.env))
    if ctx.rdzv_endpoint is not None and ctx.is_first_node:
        with contextlib.suppress(LaunchError):  # which check_rendezvous reports
            ports.append(split_endpoint(ctx.rdzv_endpoint)[1])
    return ports


def end(ctx: Context, grace_s: float = processes.GRACE_S) -> Finding:
    """End them, which takes `grace_s` at most and a little more."""
    seen, going = ctx.processes(), found(ctx)
    if not going:
        return ok(NAME, "no process of an earlier job of yours holds a card or a port that a launch would use")
    staying = processes.end(going, grace_s)
    if staying:
        return Finding(
            NAME,
            "fail",
            Message("SIGKILL does not end {who}", who=joined(map(seen.described, staying), "; ")),
            "it waits in the kernel, most likely for a card that does not answer",
            "wait a minute; then have the card reset, or the machine restarted",
        )
    return ok(NAME, Message("ended: {who}", who=joined(map(seen.described, going), "; ")))


def let_go(ctx: Context, again: Callable[[], Context]) -> Context:
    """A new look at the machine, once the driver lists none of the processes that were ended; FREED_S later in any case."""
    ended = {process.pid for process in found(ctx)}
    deadline = time.monotonic() + FREED_S
    while True:
        now = again()
        listed = {p for d in now.found.devices for q in d.processes for p in (q.pid, q.container_pid)}
        if not ended & listed or time.monotonic() > deadline:
            return now
        time.sleep(1)
