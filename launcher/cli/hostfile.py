"""`run --hostfile`: the options of a job that is started on other machines, and the way from them to its end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher import streams
from launcher.cli.options import given as options_given
from launcher.cli.options import load
from launcher.errors import LaunchError
from launcher.rundir import records

if TYPE_CHECKING:
    from launcher.cli.screen import Streams
    from launcher.clusters.ssh.node import Job
    from launcher.recipe.program import Program
    from launcher.rundir.records import Event


OPTIONS = [
    click.option(
        "--hostfile",
        type=click.Path(path_type=Path),
        help="Start the job by ssh on these hosts: a line `host slots=N` for each.",
    ),
    click.option("--include", metavar="HOSTS", help="With --hostfile: only these, as in node0@node1:0,1."),
    click.option("--exclude", metavar="HOSTS", help="With --hostfile: all but these."),
    click.option(
        "--ssh-config", type=click.Path(path_type=Path), help="ssh's configuration file [default: ssh's own]."
    ),
    click.option("--remote-python", metavar="PATH", help="Python on the hosts [default: the path of this one]."),
    click.option("--remote-dir", metavar="DIR", help="Working directory on the hosts [default: the path of this one]."),
    click.option(
        "--remote-setup",
        metavar="FILE",
        help="A shell file on the hosts, sourced first [default: CANN's set_env.sh alone].",
    ),
    click.option(
        "--pass-env",
        metavar="NAME",
        multiple=True,
        help="A variable that every host gets besides HCCL_*, ASCEND_*, HF_* and the like.",
    ),
]
OWN = {"hostfile", "include", "exclude", "ssh_config", "remote_python", "remote_dir", "remote_setup", "pass_env"}
NOT_PASSED = OWN | {"nproc", "nnodes", "node_rank", "rdzv_endpoint", "run_dir", "dry_run", "debug", "as_json"}
"""Of `run`: what is meant for this machine, or is said anew for every host."""


def options(command: Any) -> Any:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def refuse_alone(far: dict[str, Any]) -> None:
    """Raises LaunchError for an option that means nothing without a hostfile."""
    given = sorted(name for name, value in far.items() if value)
    if given:
        raise LaunchError(
            "--{given} needs --hostfile", hint="name the file with the hosts", given=given[0].replace("_", "-")
        )


def launch(
    recipe: Path,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    dry_run: bool,
    debug: bool,
    as_json: bool,
    machine: dict[str, Any],
    far: dict[str, Any],
) -> int:
    """Train RECIPE on the hosts of a hostfile; the exit code."""
    from launcher import again
    from launcher.cli.job import explained, goes_on
    from launcher.clusters.ssh import connection, job
    from launcher.planning.plan import Plan
    from launcher.rundir import lifecycle, records
    from launcher.rundir.paths import RunDir
    from launcher.show import jobs
    from launcher.show import run as show_run

    if debug:
        raise LaunchError("--debug and --hostfile cannot go together", hint="debug on one machine, without --hostfile")
    if machine["nnodes"] not in (None, 1) or machine["node_rank"]:
        raise LaunchError(
            "--hostfile says itself how many nodes there are, and which is which",
            hint="leave --nnodes and --node-rank out; --include and --exclude choose among the hosts",
        )
    loaded = load(recipe, overrides)
    overrides = (*overrides, *loaded.pins)
    planned = _job(recipe, overrides, run_dir or Path(loaded.spec.output_dir) / loaded.name / "RUN", machine, far)
    if dry_run:
        rows = [
            (
                host.name,
                connection.argv(host, planned.python, planned.ssh_config),
                planned.argv(i, planned.endpoint or "CHOSEN:LATER"),
                sorted(planned.host_env(i)),
            )
            for i, host in enumerate(planned.hosts)
        ]
        jobs.hosts(rows, planned.cwd, as_json)
        return 0
    is_new = run_dir is None
    if run_dir is None:
        run = lifecycle.new(Path(loaded.spec.output_dir), loaded.name)
    else:
        run = RunDir(run_dir)
        run.create()
    planned = _job(recipe, overrides, run.path, machine, far)
    streams.outlive()
    view = show_run.view(as_json)
    has_ranks = False

    def on_event(event: Event) -> None:
        if isinstance(event, records.Planned) and event.plan is not None:
            view.plan(Plan.model_validate_json(json.dumps(event.plan)), run, loaded)
            return
        nonlocal has_ranks
        if isinstance(event, records.Ranks) and is_new and not has_ranks:
            has_ranks = True
            lifecycle.point_latest(run.path)
        view.event(event)

    try:
        with view:
            outcome = job.run(planned, run, on_event, jobs.words)
    except LaunchError:
        if is_new:  # nothing was started
            lifecycle.discard(run)
        raise
    words = options_given({"run_dir", "dry_run", "debug"})
    continuing = again.command(["run", *words, "--run-dir", str(run.path), str(recipe), *overrides])
    report_path = run.report_path if run.report_path.exists() else None
    view.end(outcome, run, explained(outcome, run), report_path, continuing if goes_on(outcome, run) else "")
    return outcome.exit_code


OF_A_CLUSTER = {"master_addr", "master_port", "standalone", "rdzv_id", "rdzv_conf", "rdzv_backend", "log_dir"}
"""Of `program`: what --hostfile says, or is of this machine."""


def launch_program(
    program: Program, words: tuple[str, ...], on_screen: Streams, given: dict[str, Any], far: dict[str, Any]
) -> int:
    """Run a program on the hosts of a hostfile; 0, or 1 where a rank failed or the job was stopped."""
    from launcher import again
    from launcher.cli.job import cause_explained, goes_on
    from launcher.clusters.ssh import connection, job
    from launcher.errors import EXIT_JOB_FAILED, EXIT_OK, EXIT_USER
    from launcher.planning.plan import Plan
    from launcher.recipe.load import Loaded
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir import lifecycle
    from launcher.rundir.paths import RunDir
    from launcher.show import jobs
    from launcher.show import program as view_module
    from launcher.show import run as show_run

    _refuse_nodes(given)
    loaded = Loaded(RecipeSpec(output_dir=str(given["log_dir"] or "runs"), report=False), program.name, Path.cwd(), {})
    script = Path(program.target) if program.kind == "script" and Path(program.target).is_file() else None
    base = Path(loaded.spec.output_dir)
    if given["dry_run"]:
        planned = _job(script, words, given["run_dir"] or base / program.name / "RUN", given, far, "program")
        jobs.hosts(
            [
                (
                    host.name,
                    connection.argv(host, planned.python, planned.ssh_config),
                    planned.argv(i, planned.endpoint or "CHOSEN:LATER"),
                    sorted(planned.host_env(i)),
                )
                for i, host in enumerate(planned.hosts)
            ],
            planned.cwd,
            given["as_json"],
        )
        return EXIT_OK
    is_new = given["run_dir"] is None
    run = lifecycle.new(base, program.name) if is_new else RunDir(given["run_dir"])
    run.create()
    planned = _job(script, words, run.path, given, far, "program")
    streams.outlive()
    view = show_run.view(True) if given["as_json"] else view_module.ProgramView()

    def on_event(event: Event) -> None:
        if isinstance(event, records.Planned):
            plan = Plan.model_validate_json(json.dumps(event.plan))
            nodes = range(plan.num_nodes)
            shown = [s for i in nodes for s in on_screen.of_node(plan.nproc_per_node, i, is_among_others=True)]
            if isinstance(view, view_module.ProgramView):
                view.shown_ranks = view_module.with_errors(tuple(shown))
            view.plan(plan, run, loaded)
        elif isinstance(event, records.Output) and not given["as_json"]:
            source = view_module.Source(event.rank or 0, event.stream or view_module.STDOUT)
            view_module.show_output(source, (event.text or "").encode(errors="surrogateescape"))
        else:
            if isinstance(event, records.Ranks) and is_new:
                lifecycle.point_latest(run.path)
            view.event(event)

    try:
        with view:
            outcome = job.run(planned, run, on_event, jobs.words)
    except LaunchError:
        if is_new:  # nothing was started
            lifecycle.discard(run)
        raise
    options = [*options_given({"run_dir", "dry_run"}), "--run-dir", str(run.path)]
    continuing = again.command(["program", *options, *words]) if goes_on(outcome, run) else ""
    view.end(outcome, run, cause_explained(outcome, run), again=continuing)
    return outcome.exit_code if outcome.exit_code in (EXIT_OK, EXIT_USER) else EXIT_JOB_FAILED


def _refuse_nodes(given: dict[str, Any]) -> None:
    said = [name for name in ("node_rank", "master_addr", "master_port", "standalone") if given[name]]
    if given["nnodes"] not in (None, 1):
        said.append("nnodes")
    if said:
        raise LaunchError(
            "--{text}: --hostfile says itself how many nodes there are, and which is which",
            hint="leave it out; --include and --exclude choose among the hosts, and --rdzv-endpoint says "
            "where they meet",
            text=said[0].replace("_", "-"),
        )
    if isinstance(given["nproc"], str):
        raise LaunchError(
            "--nproc-per-node {nproc} with --hostfile",
            hint="give a number, or slots=N for a host",
            nproc=given["nproc"],
        )


def _job(
    recipe: Path | None,
    overrides: tuple[str, ...],
    run_dir: Path,
    machine: dict[str, Any],
    far: dict[str, Any],
    command: str = "run",
) -> Job:
    import hashlib

    from launcher.clusters.ssh import hostfile, node
    from launcher.render import env

    config = far["ssh_config"]
    if config is not None and not config.is_file():
        raise LaunchError(
            "--ssh-config {config}: no such file", hint="name ssh's configuration file on this machine", config=config
        )
    chosen = hostfile.select(hostfile.load(far["hostfile"]), far["include"], far["exclude"])
    missing = [name for name in far["pass_env"] if name not in os.environ]
    if missing:
        raise LaunchError(
            "--pass-env {missing}: no such variable here",
            hint="name a variable of this environment; its value then needs no command line",
            missing=missing[0],
        )
    every, first = env.passed(os.environ, far["pass_env"])
    return node.Job(
        hosts=chosen,
        # Those that variables say are passed with the environment.
        words=tuple(
            options_given(NOT_PASSED | (OF_A_CLUSTER if command == "program" else set()), sources=("COMMANDLINE",))
        ),
        recipe=recipe,
        overrides=overrides,
        digest=hashlib.sha256(recipe.read_bytes()).hexdigest() if recipe is not None else "",
        nproc=hostfile.ranks_per_host(chosen, machine["nproc"]),
        endpoint=machine["rdzv_endpoint"],
        run_dir=run_dir,
        cwd=far["remote_dir"] or _here(),
        python=far["remote_python"] or sys.executable,
        setup=far["remote_setup"],
        env=every,
        first_env=first,
        cann=os.environ.get("ASCEND_HOME_PATH"),
        grace_s=machine["grace"],
        ssh_config=config,
        command=command,
    )


def _here() -> str:
    """This folder by the name that the user knows it by, which is the one that other hosts share behind an automounter."""
    logical = os.environ.get("PWD", "")
    try:
        return logical if Path(logical).samefile(".") else str(Path.cwd())
    except OSError:
        return str(Path.cwd())
