"""The environment that a rank is started with, beyond the plan's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from launcher.planning.plan import Plan
from launcher.recipe.program import Program
from launcher.rundir.paths import RunDir
from launcher.worker.agent.nodes.link import Meeting


@dataclass(frozen=True)
class Place:
    """Which rank of a job a process is."""

    rank: int
    local_rank: int
    node_rank: int
    attempt: int


def rank_env(run_dir: RunDir, plan: Plan, program: Program | None, place: Place, meeting: Meeting) -> dict[str, str]:
    """torchrun's contract, so that any script finds what it expects."""
    env = {
        "RANK": place.rank,
        "LOCAL_RANK": place.local_rank,
        "WORLD_SIZE": plan.world_size,
        "LOCAL_WORLD_SIZE": plan.nproc_per_node,
        "GROUP_RANK": place.node_rank,
        "GROUP_WORLD_SIZE": plan.num_nodes,
        "ROLE_RANK": place.rank,
        "ROLE_WORLD_SIZE": plan.world_size,
        "ROLE_NAME": program.role if program else "default",
        "MASTER_ADDR": meeting.host,
        "MASTER_PORT": meeting.port,
        "TORCHELASTIC_RESTART_COUNT": place.attempt,
        "TORCHELASTIC_MAX_RESTARTS": plan.supervision.max_restarts,
        "TORCHELASTIC_RUN_ID": run_dir.path.name,
        # An agent serves the store, on a port it holds already; every rank is a client of it.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_ERROR_FILE": torchelastic_error(run_dir, place.attempt, place.rank),
    }
    if program is not None:
        env |= {"ASCEND_LAUNCH_RUN_DIR": run_dir.path}
    return {name: str(value) for name, value in (env | network_env(plan, meeting)).items()}


def network_env(plan: Plan, meeting: Meeting) -> dict[str, str]:
    """What only the meeting tells: the interface towards the other nodes, and ports that are free on all of them.
    What the user has set stays."""
    env = {}
    if meeting.interface is not None and "GLOO_SOCKET_IFNAME" not in os.environ:
        # Gloo otherwise asks for the host's own name, which resolves to 127.0.1.1 on many machines.
        env["GLOO_SOCKET_IFNAME"] = meeting.interface
    return env | plan.accelerator.meeting_variables(os.environ, meeting.interface, meeting.hccl_base)


def torchelastic_error(run_dir: RunDir, attempt: int, rank: int) -> Path:
    """Where a program that uses torch's `record` leaves its error."""
    return run_dir.attempt(attempt) / f"torchelastic_error_{rank}.json"
