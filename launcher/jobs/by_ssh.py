"""A job on other hosts, started by ssh: what each is to start, and the way from there to the end."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import streams
from launcher.clusters.ssh import connection, hostfile, job, node
from launcher.errors import EXIT_JOB_FAILED, EXIT_OK, EXIT_USER, LaunchError
from launcher.jobs import afterwards, claim
from launcher.jobs.options import Hosts
from launcher.planning.plan import Plan
from launcher.recipe.load import Loaded
from launcher.render import env
from launcher.rundir import records
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event

if TYPE_CHECKING:
    from launcher.jobs.view import HostsView


@dataclass(frozen=True)
class Work:
    """What every host starts."""

    loaded: Loaded
    options: tuple[str, ...]
    """Arguments of the command line that all hosts share."""
    file: Path | None
    """A recipe, or a program's script, that every host must have as it is here; None where there is none."""
    words: tuple[str, ...]
    """What comes after the options and the recipe."""
    nproc: int | None
    endpoint: str | None
    """The user's own --rdzv-endpoint."""
    grace_s: float
    command: str = "run"
    """Of `ascend-launch`, or `program`, or `command`."""


def planned(work: Work, hosts: Hosts, run_dir: Path | None) -> node.Job:
    """All that is decided before a host is asked.

    Raises:
        LaunchError: the hostfile or an option for the hosts is not as it must be.
    """
    if hosts.ssh_config is not None and not hosts.ssh_config.is_file():
        raise LaunchError(
            "--ssh-config {config}: no such file",
            hint="name ssh's configuration file on this machine",
            config=hosts.ssh_config,
        )
    chosen = hostfile.select(hostfile.load(hosts.hostfile), hosts.include, hosts.exclude)
    missing = [name for name in hosts.pass_env if name not in os.environ]
    if missing:
        raise LaunchError(
            "--pass-env {missing}: no such variable here",
            hint="name a variable of this environment; its value then needs no command line",
            missing=missing[0],
        )
    every, first = env.passed(os.environ, hosts.pass_env)
    return node.Job(
        hosts=chosen,
        words=work.options,
        recipe=work.file,
        overrides=work.words,
        digest=hashlib.sha256(work.file.read_bytes()).hexdigest() if work.file is not None else "",
        nproc=hostfile.ranks_per_host(chosen, work.nproc),
        endpoint=work.endpoint,
        run_dir=run_dir or Path(work.loaded.spec.output_dir) / work.loaded.name / "RUN",
        cwd=hosts.remote_dir or _working_directory(),
        python=hosts.remote_python or sys.executable,
        setup=hosts.remote_setup,
        env=every,
        first_env=first,
        cann=os.environ.get("ASCEND_HOME_PATH"),
        grace_s=work.grace_s,
        ssh_config=hosts.ssh_config,
        command=work.command,
    )


def rows(to_start: node.Job) -> list[tuple[str, list[str], list[str], list[str]]]:
    """What would run for each host: its name, the command on this machine, the arguments there, the variables sent over."""
    return [
        (
            host.name,
            connection.argv(host, to_start.python, to_start.ssh_config),
            to_start.argv(i, to_start.endpoint or "CHOSEN:LATER"),
            sorted(to_start.host_env(i)),
        )
        for i, host in enumerate(to_start.hosts)
    ]


def launch(work: Work, hosts: Hosts, run_dir: Path | None, view: HostsView, again: Callable[[RunDir], str]) -> int:
    """Run a job on the hosts to its end, and show it; the exit code. `again`: the command that goes on with a run.

    Raises:
        LaunchError: nothing was started.
    """
    to_start = planned(work, hosts, run_dir)  # before anything is made
    place = claim.of_hosts(work.loaded, run_dir)
    run = place.run
    streams.outlive()

    def on_event(event: Event) -> None:
        if work.command == "command":
            place.begin()
        if isinstance(event, records.Planned) and event.plan is not None:
            view.plan(Plan.model_validate_json(json.dumps(event.plan)), run, work.loaded)
            return
        place.see(event)
        view.event(event)

    try:
        with view:
            outcome = job.run(replace(to_start, run_dir=run.path), run, on_event, view.words)
    except LaunchError:
        place.give_up()
        raise
    return _end(work, outcome, run, view, again)


def _end(work: Work, outcome: Outcome, run: RunDir, view: HostsView, again: Callable[[RunDir], str]) -> int:
    if work.command == "command":
        view.end(outcome, run, None)
        return outcome.exit_code
    continuing = again(run) if afterwards.goes_on(outcome, run) else ""
    if work.command == "program":
        view.end(outcome, run, afterwards.cause_explained(outcome, run), again=continuing)
        return outcome.exit_code if outcome.exit_code in (EXIT_OK, EXIT_USER) else EXIT_JOB_FAILED
    report_path = run.report_path if run.report_path.exists() else None  # the first host has written it
    view.end(outcome, run, afterwards.explained(outcome, run), report_path, continuing)
    return outcome.exit_code


def _working_directory() -> str:
    """This folder by the name that the user knows it by, which is the one that other hosts share behind an automounter."""
    logical = os.environ.get("PWD", "")
    try:
        return logical if Path(logical).samefile(".") else str(Path.cwd())
    except OSError:
        return str(Path.cwd())
