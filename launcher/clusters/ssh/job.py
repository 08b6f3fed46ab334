"""A job on several hosts: every host is checked before any starts, all are followed to the end, and nothing is left."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from typing import BinaryIO

from launcher.clusters.ssh import meeting
from launcher.clusters.ssh.connection import Hub
from launcher.clusters.ssh.fleet import Fleet
from launcher.clusters.ssh.hostfile import Host
from launcher.clusters.ssh.node import Job, Node, file_name
from launcher.rundir import paths
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event


def run(job: Job, run_dir: RunDir, on_event: Callable[[Event], None], on_words: Callable[[str, str], None]) -> Outcome:
    """Run the job on all hosts to its end. The first node's events are passed on, and other output by host.

    Raises:
        LaunchError: a host cannot take part; all that are in the way are named, and none has started anything.
    """
    token = f".launch-{secrets.token_hex(8)}"
    paths.touch(run_dir.path / token)
    paths.remove(run_dir.failure_path)
    hub = Hub(job.hosts, job.python, job.ssh_config)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: paths.remove(run_dir.path / token))
        patience = [0.0]
        stack.callback(lambda: hub.close(patience[0]))
        nodes = [Node(i, c, stack.enter_context(_log_of(c.host, run_dir))) for i, c in enumerate(hub.connections)]
        fleet = Fleet(job, hub, nodes, run_dir, on_event, on_words)
        fleet.connect()
        fleet.prepare(token)
        endpoint = meeting.meet(job, nodes, fleet.ask)
        if job.command != "command":
            fleet.share(f"{token}-first")
        outcome = fleet.follow(endpoint)
        patience[0] = 5.0
        return outcome


def _log_of(host: Host, run_dir: RunDir) -> BinaryIO:
    path = run_dir.path / "nodes" / f"{file_name(host)}.log"
    return open(path, "ab", opener=lambda *_: paths.open_append(path))
