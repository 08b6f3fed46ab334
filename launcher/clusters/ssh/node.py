"""One host of a job that is started by ssh."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from launcher.clusters.ssh.connection import Connection
from launcher.clusters.ssh.hostfile import Host
from launcher.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED, LaunchError
from launcher.rundir import records
from launcher.rundir.paths import JOB_SECRET

CONNECT_S = 45.0
"""ssh gives up by itself after 15 seconds without a connection; logging in may take a while beyond."""
PREPARE_S = 300.0
PATIENCE_S = 30.0
"""After one node's end by a failure, what the others get to end by themselves: a lost node is seen after 15 seconds."""
SOON_S = 2.0
"""The same where the job has not begun, so that the others do not know of it."""
STOP_MARGIN_S = 30.0
"""Beyond the ranks' grace, what a host that was asked to stop may take. The far side kills after 20."""
FETCH_S = 60.0


@dataclass(frozen=True)
class Job:
    """All that is decided before a host is asked."""

    hosts: tuple[Host, ...]
    words: tuple[str, ...]
    """Of `command`: the options that all nodes share."""
    recipe: Path | None
    """A file that every host must have as it is here: the recipe, or a program's script; None where there is none."""
    overrides: tuple[str, ...]
    """What comes after the options and the recipe."""
    digest: str
    """Of `recipe`."""
    nproc: int | None
    endpoint: str | None
    """The user's own --rdzv-endpoint."""
    run_dir: Path
    """As it is given to every node: relative to `cwd`, or absolute."""
    cwd: str
    python: str
    setup: str | None
    env: Mapping[str, str]
    first_env: Mapping[str, str]
    """What the first node needs beyond: it alone reports to others."""
    cann: str | None
    """Where CANN is on this machine; looked for there first."""
    grace_s: float
    ssh_config: Path | None = None
    command: str = "run"
    """Of `ascend-launch`, or `program`, or `command`."""
    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    """By which the nodes authenticate each other's messages, where the user has none. A connection's standard input takes it there."""

    def argv(self, node: int, endpoint: str | None) -> list[str]:
        """The arguments of `ascend-launch` on that node."""
        words = [self.command, *self.words]
        if self.command != "command":
            words += ["--json", "--run-dir", str(self.run_dir)]
        if self.nproc is not None:
            words += ["--nproc", str(self.nproc)]
        words += ["--nnodes", str(len(self.hosts))]
        if len(self.hosts) > 1:
            words += ["--node-rank", str(node), "--rdzv-endpoint", str(endpoint)]
        if self.command == "command":
            return [*words, "--", *self.overrides]
        if self.command != "run":
            return [*words, "--output-events", *self.overrides]
        return [*words, "--", str(self.recipe), *self.overrides]

    @property
    def remote_run_dir(self) -> str:
        """The run directory on a host."""
        return str(PurePosixPath(self.cwd, self.run_dir))

    def host_env(self, node: int) -> dict[str, str]:
        cards = self.hosts[node].cards
        own = {} if cards is None else {"ASCEND_RT_VISIBLE_DEVICES": ",".join(map(str, cards))}
        # Names the run directory of each launch that a command starts, the same on every host.
        run = {"PET_RDZV_ID": self.run_dir.name} if self.command == "command" else {}
        return {JOB_SECRET: self.secret, **run, **self.env, **(self.first_env if node == 0 else {}), **own}


@dataclass(eq=False)
class Node:
    """What is known of one host's part."""

    number: int
    connection: Connection
    log: BinaryIO
    shares_files: bool = False
    address: str | None = None
    lines: dict[str, bytearray] = field(default_factory=lambda: {"out": bytearray(), "err": bytearray()})
    last_words: list[str] = field(default_factory=list)
    """Standard error, from `error:` on."""
    code: int | None = None
    outcome: records.Ended | None = None
    lost: str = ""
    """Why there is nothing more to hear."""

    @property
    def name(self) -> str:
        return self.connection.host.name

    @property
    def is_running(self) -> bool:
        return self.code is None and not self.lost

    @property
    def has_failed(self) -> bool:
        return bool(self.lost) or self.code not in (None, EXIT_OK, EXIT_TERMINATED, EXIT_INTERRUPTED)


def file_name(host: Host) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in host.name)


def refuse(problems: Mapping[Node, tuple[str, str]]) -> None:
    """Raises LaunchError with a line for each host that has a problem."""
    if not problems:
        return
    rows = [(node, *problems[node]) for node in sorted(problems, key=lambda n: n.number)]
    what = "\n".join(f"{node.connection.host.where}: {node.name}: {what}" for node, what, _ in rows)
    raise LaunchError(what, hint="\n       ".join(dict.fromkeys(hint for *_, hint in rows)))
