"""`--hostfile`: the options of a job that is started on other machines, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.cli.options import given as options_given
from launcher.cli.options import with_options
from launcher.errors import EXIT_OK, LaunchError

if TYPE_CHECKING:
    from launcher.cli.screen import Streams
    from launcher.jobs.by_ssh import Work
    from launcher.jobs.options import Hosts
    from launcher.recipe.program import Program
    from launcher.rundir.paths import RunDir


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
OF_A_CLUSTER = {"master_addr", "master_port", "standalone", "rdzv_id", "rdzv_conf", "rdzv_backend", "log_dir"}
"""Of `program`: what --hostfile says, or is of this machine."""
TYPED = ("COMMANDLINE",)
"""Options that variables say are passed with the environment."""


def options(command: Any) -> Any:
    return with_options(OPTIONS, command)


def hosts_of(given: dict[str, Any]) -> Hosts | None:
    """What the options say of other hosts, which are taken out of `given`; None where the job is started here.

    Raises:
        LaunchError: an option that means nothing without a hostfile.
    """
    from launcher.jobs.options import Hosts

    far = {name: given.pop(name) for name in OWN}
    if far["hostfile"] is not None:
        return Hosts(**far)
    names = sorted(name for name, value in far.items() if value)
    if names:
        raise LaunchError(
            "--{given} needs --hostfile", hint="name the file with the hosts", given=names[0].replace("_", "-")
        )
    return None


def run_recipe(
    recipe: Path,
    overrides: tuple[str, ...],
    hosts: Hosts,
    run_dir: Path | None,
    given: dict[str, Any],
    dry_run: bool,
    debug: bool,
    as_json: bool,
) -> int:
    """Train RECIPE on the hosts of a hostfile; the exit code."""
    from launcher import again
    from launcher.jobs import by_ssh, inputs
    from launcher.show import run as show_run

    if debug:
        raise LaunchError("--debug and --hostfile cannot go together", hint="debug on one machine, without --hostfile")
    if given["nnodes"] not in (None, 1) or given["node_rank"]:
        raise LaunchError(
            "--hostfile says itself how many nodes there are, and which is which",
            hint="leave --nnodes and --node-rank out; --include and --exclude choose among the hosts",
        )
    loaded = inputs.load(recipe, overrides)
    overrides = (*overrides, *loaded.pins)
    work = by_ssh.Work(
        loaded=loaded,
        options=tuple(options_given(NOT_PASSED, sources=TYPED)),
        file=recipe,
        words=overrides,
        nproc=given["nproc"],
        endpoint=given["rdzv_endpoint"],
        grace_s=given["grace"],
    )
    if dry_run:
        return _show(work, hosts, run_dir, as_json)

    def continuing(run: RunDir) -> str:
        words = options_given({"run_dir", "dry_run", "debug"})
        return again.command(["run", *words, "--run-dir", str(run.path), str(recipe), *overrides])

    return by_ssh.launch(work, hosts, run_dir, show_run.view(as_json), continuing)


def run_program(program: Program, words: tuple[str, ...], streams: Streams, hosts: Hosts, given: dict[str, Any]) -> int:
    """Run a program on the hosts of a hostfile; 0, or 1 where a rank failed or the job was stopped."""
    from launcher import again
    from launcher.jobs import by_ssh, programs
    from launcher.show import program as show_program
    from launcher.show import run as show_run

    _refuse_nodes(given)
    work = by_ssh.Work(
        loaded=programs.loaded(program, given["log_dir"]),
        options=tuple(options_given(NOT_PASSED | OF_A_CLUSTER, sources=TYPED)),
        file=Path(program.target) if program.kind == "script" and Path(program.target).is_file() else None,
        words=words,
        nproc=given["nproc"],
        endpoint=given["rdzv_endpoint"],
        grace_s=given["grace"],
        command="program",
    )
    if given["dry_run"]:
        return _show(work, hosts, given["run_dir"], given["as_json"])

    def continuing(run: RunDir) -> str:
        return again.command(["program", *options_given({"run_dir", "dry_run"}), "--run-dir", str(run.path), *words])

    view = show_run.view(True) if given["as_json"] else show_program.HostsProgramView(streams.of_plan)
    return by_ssh.launch(work, hosts, given["run_dir"], view, continuing)


def run_command(words: tuple[str, ...], hosts: Hosts, given: dict[str, Any]) -> int:
    """Run a command once on each host of a hostfile; its exit code where it failed on one."""
    from launcher.jobs import by_ssh, programs
    from launcher.recipe.program import Program
    from launcher.show import program as show_program

    _refuse_nodes(given)
    run_dir = None if given["run_dir"] is None else Path(given["run_dir"])
    program = Program(kind="executable", target=words[0], args=words[1:])
    work = by_ssh.Work(
        loaded=programs.loaded(program, None),
        options=tuple(options_given(NOT_PASSED - {"run_dir"}, sources=TYPED)),
        file=None,
        words=words,
        nproc=given["nproc"],
        endpoint=given["rdzv_endpoint"],
        grace_s=given["grace"],
        command="command",
    )
    return by_ssh.launch(work, hosts, run_dir, show_program.HostsCommandView(), lambda run: "")


def _show(work: Work, hosts: Hosts, run_dir: Path | None, as_json: bool) -> int:
    """What would be started on which host."""
    from launcher.jobs import by_ssh
    from launcher.show import jobs

    to_start = by_ssh.planned(work, hosts, run_dir)
    jobs.hosts(by_ssh.rows(to_start), to_start.cwd, as_json)
    return EXIT_OK


def _refuse_nodes(given: dict[str, Any]) -> None:
    names = [name for name in ("node_rank", "master_addr", "master_port", "standalone") if given.get(name)]
    if given["nnodes"] not in (None, 1):
        names.append("nnodes")
    if names:
        raise LaunchError(
            "--{text}: --hostfile says itself how many nodes there are, and which is which",
            hint="leave it out; --include and --exclude choose among the hosts, and --rdzv-endpoint says "
            "where they meet",
            text=names[0].replace("_", "-"),
        )
    if isinstance(given["nproc"], str):
        raise LaunchError(
            "--nproc-per-node {nproc} with --hostfile",
            hint="give a number, or slots=N for a host",
            nproc=given["nproc"],
        )
