"""Why the nodes of a job do not meet, or one of them is lost: errors with what to do."""

from __future__ import annotations

import time
from collections.abc import Sequence

from launcher.accelerators.ascend.ports import PORTS_OF_A_BLOCK
from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.messages import Message, plural
from launcher.planning.plan import Plan
from launcher.rundir.paths import JOB_SECRET
from launcher.rundir.records import NODE_LOST, Failure
from launcher.worker.runtime import failure


def absent(plan: Plan, nodes: Sequence[int]) -> LaunchError:
    """Of nodes that have not come to the first one in time."""
    return LaunchError(
        plural(
            "node {absent} of {num_nodes} did not come to {endpoint} within {timeout_s:.0f} s",
            "nodes {absent} of {num_nodes} did not come to {endpoint} within {timeout_s:.0f} s",
            count=len(nodes),
            absent=", ".join(map(str, nodes)),
            num_nodes=plan.num_nodes,
            endpoint=plan.rdzv_endpoint,
            timeout_s=plan.supervision.join_timeout_s,
        ),
        hint="start the launcher there too, each with its own --node-rank; --join-timeout sets the limit",
        exit_code=EXIT_JOB_FAILED,
    )


def unreachable(plan: Plan, node_rank: int) -> LaunchError:
    """Of a first node that is not there."""
    return LaunchError(
        "node {node_rank} found no first node at {endpoint} within {timeout_s:.0f} s",
        hint="start the launcher there too, with --node-rank 0; check the address, the port and "
        "firewalls; --join-timeout sets the limit",
        exit_code=EXIT_JOB_FAILED,
        node_rank=node_rank,
        endpoint=plan.rdzv_endpoint,
        timeout_s=plan.supervision.join_timeout_s,
    )


def closed_port(plan: Plan, node_rank: int, port: int, hosts: Sequence[str]) -> LaunchError:
    """Of a first node whose ranks' store cannot be reached."""
    return LaunchError(
        "node {node_rank} reaches {endpoint}, but not port {port} of the first node ({hosts})",
        hint="let the nodes connect to each other at any port: firewall, security group or network policy",
        exit_code=EXIT_JOB_FAILED,
        node_rank=node_rank,
        endpoint=plan.rdzv_endpoint,
        port=port,
        hosts=" or ".join(hosts),
    )


def taken(plan: Plan, node_rank: int, taken_by: str) -> LaunchError:
    """Of two launchers with one --node-rank."""
    return LaunchError(
        "{taken_by} is node {node_rank} of the job at {endpoint} already",
        hint="give every node a --node-rank of its own",
        taken_by=taken_by,
        node_rank=node_rank,
        endpoint=plan.rdzv_endpoint,
    )


def other_secret(plan: Plan, node_rank: int) -> LaunchError:
    """Of a first node whose messages cannot be verified."""
    return LaunchError(
        "node {node_rank} and the first node at {endpoint} do not have the same {job_secret}",
        hint="export one {job_secret} on every node, or none on any; `openssl rand -hex 32` makes one",
        node_rank=node_rank,
        endpoint=plan.rdzv_endpoint,
        job_secret=JOB_SECRET,
    )


def unchecked(plan: Plan) -> Message:
    """Of a job without a secret."""
    return Message(
        "the nodes do not check who writes to {endpoint}: whoever reaches it can end this job; "
        "export one {job_secret} on every node (`openssl rand -hex 32` makes one)",
        endpoint=plan.rdzv_endpoint,
        job_secret=JOB_SECRET,
    )


def different(node_rank: int, node: int, host: str, difference: tuple[str, str, str]) -> LaunchError:
    """Of a node that would not do the same as this one; see `consistency.difference`."""
    verb, values, hint = difference
    return LaunchError(
        Message(
            "node {node} ({host}) {verb} than node {node_rank}: {values}",
            node=node,
            host=host,
            verb=verb,
            node_rank=node_rank,
            values=values,
        ),
        hint=hint,
    )


def no_block(node: int, host: str, offers: set[int]) -> LaunchError:
    """Of HCCL's ports, of which no block is free on all nodes; `node` offers fewest."""
    return LaunchError(
        "no {ports_of_a_block} ports for HCCL are free on all nodes; {where} offers {offers}",
        hint="end other jobs on these hosts, or export HCCL_IF_BASE_PORT with one value on every node",
        ports_of_a_block=PORTS_OF_A_BLOCK,
        where=Message("node {few} ({host})", few=node, host=host),
        offers=sorted(offers) or "none",
    )


def lost(node: int, host: str, gone: str, silent_s: float) -> Failure:
    """The failure of a node that is gone, at the time when it was last heard of."""
    what = Message("node {node} ({host}) is lost: {gone}", node=node, host=host, gone=gone)
    return Failure.of(
        rank=None,
        node_rank=node,
        host=host,
        type=NODE_LOST,
        message=what,
        what=what,
        hint=Message("look at that node: its power and network, and agent.log in its run directory"),
        traceback="",
        weight=failure.CAUSE,
        exit_code=EXIT_JOB_FAILED,
        time=time.time() - silent_s,
        time_ns=time.monotonic_ns() - int(silent_s * 1e9),
    )
