"""A scheduler of another package: hosts that share files, jobs that wait in lanes, and one client for all, `lineup`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from launcher import files
from launcher.clusters.base import Base
from launcher.clusters.command import client, refused
from launcher.clusters.options import Option
from launcher.clusters.submission import Asked, Commands, Job, OnSharedFiles, Script, Work
from launcher.errors import EXIT_JOB_FAILED, EXIT_OK, LaunchError
from launcher.machine.nodes import Nodes, Read
from launcher.rundir import events
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Failure


class Lineup(Base):
    """It tells each node of a job by LINEUP_ variables."""

    name = "lineup"
    title = "Lineup"
    variables = MappingProxyType(
        {
            "job": ("LINEUP_JOB",),
            "count": ("LINEUP_NODES",),
            "rank": ("LINEUP_NODE",),
            "nproc": ("LINEUP_RANKS",),
            "host": ("LINEUP_FIRST",),
        }
    )
    has_queue = True
    help = "As a job of Lineup, by lineup."
    options = (
        Option("--lane", "The lane that the job waits in.", metavar="NAME"),
        Option("--partition", "The part of the cluster.", metavar="NAME"),
        Option("--follow", "Show the job until it ends, and exit as it does.", "flag"),
    )

    def is_here(self, env: Mapping[str, str]) -> bool:
        return bool(env.get("LINEUP_JOB"))

    def nodes(self, read: Read, *, pretend: bool) -> Nodes:
        return read.nodes(
            count=read.needed("the number of nodes", "LINEUP_NODES", least=1),
            rank=read.number("LINEUP_NODE") or 0,
            host=read.text("LINEUP_FIRST"),
            port=None,
            job=f"lineup-{read.text('LINEUP_JOB')}",
            nproc=read.number("LINEUP_RANKS"),
        )

    def submission(self, values: Mapping[str, Any]) -> LineupSubmission:
        return LineupSubmission(values["lane"], values["partition"])


LINEUP = Lineup()


class LineupJob(Job):
    """Lineup says `runs`, or `ended`."""

    @property
    def has_ended(self) -> bool:
        return self.state == "ended"


@dataclass(frozen=True)
class LineupSubmission(OnSharedFiles):
    lane: str | None
    partition: str | None

    @property
    def queue(self) -> Queue:
        return Queue()

    def script(self, work: Work, asked: Asked) -> Script:
        run_dir = asked.run_dir.absolute() if asked.run_dir else None
        folder = run_dir or Path(work.loaded.spec.output_dir).absolute() / work.plan.name
        argv = [sys.executable, "-m", "launcher.cli", *work.argv(run_dir)]
        lines = ["#!/bin/bash", f"# lane {self.lane} part {self.partition} nodes {work.plan.num_nodes}"]
        text = "\n".join([*lines, f"cd {shlex.quote(str(Path.cwd()))}", shlex.join(argv), ""])
        return Script(text, work.plan.name, folder, is_run=run_dir is not None, output=str(folder / "printed"))

    def submit(self, script: Script, env: Mapping[str, str]) -> str:
        done = client(["lineup", "submit", script.output], env, script.text.encode(), "the head of the line")
        if done.returncode:
            hints = [("no such lane", "`lineup lanes` lists them; name one with --lane")]
            raise refused("lineup", done.stderr, hints, "`--dry-run` shows the script")
        return done.stdout.decode().strip()

    def commands(self, job: str) -> Commands:
        return Commands(end=f"lineup drop {job}")


class Queue:
    def run_name(self, job: str) -> str:
        return f"lineup-{job}"

    def output(self, script: Script, job: str) -> Path:
        return Path(script.output)

    def look(self, job: str, env: Mapping[str, str]) -> LineupJob | None:
        try:
            done = client(["lineup", "look", job], env, b"")
        except LaunchError:
            return None
        state, _, code = done.stdout.decode().strip().partition(" ")
        return LineupJob(job, state, nodes="here", exit_code=int(code or 0))

    def outcome(self, job: Job, run: RunDir, output: Path) -> Outcome:
        if job.exit_code == EXIT_OK:
            return Outcome(EXIT_OK, None, files.read_json(run.metrics_path))
        why = Failure.of(rank=None, what=f"exit code {job.exit_code}", hint="", traceback=files.tail(output))
        return Outcome(EXIT_JOB_FAILED, events.read_failure(run.failure_path) or why)
