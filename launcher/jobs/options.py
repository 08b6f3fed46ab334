"""What a command is asked for, apart from how it was typed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.accelerators.table import AUTO


@dataclass(frozen=True)
class Machine:
    """Which ranks, on which nodes, on what. None where it is to be detected."""

    nproc: int | None = None
    """Ranks on each node."""
    device: str = AUTO
    nnodes: int | None = None
    node_rank: int | None = None
    rdzv_endpoint: str | None = None
    """host:port of node 0."""
    rank_table: Path | None = None
    chip: str | None = None
    """To plan for; a launch asks the cards."""
    hbm: int | None = None
    """Of a card to plan for, in GB."""


@dataclass(frozen=True)
class Hosts:
    """The hosts that a job is started on by ssh, and how they are entered."""

    hostfile: Path
    include: str | None = None
    exclude: str | None = None
    ssh_config: Path | None = None
    remote_python: str | None = None
    remote_dir: str | None = None
    remote_setup: str | None = None
    pass_env: tuple[str, ...] = ()
    """Names of variables beside those that every host gets."""
