"""command: any command, once; every torchrun that it starts is ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from launcher.accelerators import table as accelerators
from launcher.cli import hostfile
from launcher.cli.options import hooks_option, refuse_unwatched, supervision_options
from launcher.errors import LaunchError


def _job(env: Mapping[str, str], count: int | None, rank: int | None, endpoint: str | None) -> dict[str, str]:
    """Which node of a job this is, by the variables that LLaMA-Factory, ms-swift and many scripts read; none on one node.
    What the options say counts before what the environment says, and that before what its cluster says; where a cluster
    does not say it, the launch inside says what is wrong.

    Raises:
        LaunchError: the options do not fit together.
    """
    from launcher.clusters import environment
    from launcher.machine.nodes import split_endpoint

    is_given = count is not None
    try:
        nodes = environment.find(env, count, rank, endpoint)
    except LaunchError:
        if is_given:
            raise
        return {}
    if nodes.count == 1 or nodes.endpoint is None:
        return {}
    host, port = split_endpoint(nodes.endpoint)
    variables = {
        "NNODES": str(nodes.count),
        "NODE_RANK": str(nodes.rank),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    return variables if is_given else {name: value for name, value in variables.items() if name not in env}


@click.command(
    name="command",
    context_settings={"allow_interspersed_args": False, "token_normalize_func": lambda word: word.replace("_", "-")},
)
@click.option("--nproc", metavar="N", help="Ranks on this node of each launch that names none itself.")
@click.option(
    "--device",
    metavar="|".join(accelerators.BUILT_IN),
    help="Where ranks compute [default: npu where there is one, else cpu].",
)
@click.option(
    "--nnodes", type=click.IntRange(1), help="Nodes of the job [default: from the cluster's environment, else 1]."
)
@click.option(
    "--node-rank", type=click.IntRange(0), help="Rank of this node, from 0 [default: from the cluster's environment]."
)
@click.option(
    "--rdzv-endpoint",
    metavar="HOST:PORT",
    help="Host and port of node 0, the same on every node [default: from the cluster's environment].",
)
@hooks_option
@supervision_options
@hostfile.options
@click.option(
    "--run-dir", metavar="FOLDER", help="Directory of the run that the command starts [default: a new one below runs]."
)
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND [ARGS]...", type=click.UNPROCESSED)
@click.pass_context
def command_command(
    context: click.Context,
    words: tuple[str, ...],
    nnodes: int | None,
    node_rank: int | None,
    rdzv_endpoint: str | None,
    **given: Any,
) -> None:
    """Run COMMAND once, as it is; every torchrun that it starts runs under our agent.

    \b
      ascend-launch --max-restarts 1 -- llamafactory-cli train sft.yaml
      ascend-launch -- bash train.sh

    The options are given to each such launch, beside those that the command itself gives. In a job of several nodes the
    command runs once on each; NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT say which, where they are not set.
    """
    from launcher import nested

    refuse_unwatched(context)
    hosts = hostfile.hosts_of(given)
    if hosts is not None:
        if given["nproc"] is not None and given["nproc"].isdecimal():
            given["nproc"] = int(given["nproc"])
        of_nodes = {"nnodes": nnodes, "node_rank": node_rank, "rdzv_endpoint": rdzv_endpoint}
        sys.exit(hostfile.run_command(words, hosts, {**given, **of_nodes}))
    ours: list[str] = []
    for name, value in given.items():
        source = context.get_parameter_source(name)
        if value is not None and source is not None and source.name == "COMMANDLINE":
            ours += [f"--{name.replace('_', '-')}", str(value)]
    with tempfile.TemporaryDirectory(prefix="ascend-launch-") as folder:
        env = nested.prepare(Path(folder), ours, {**os.environ, **_job(os.environ, nnodes, node_rank, rdzv_endpoint)})
        try:
            child = subprocess.Popen(words, env=env)
        except OSError as error:
            raise LaunchError(
                "{word}: {problem}",
                hint="what follows -- is a command on PATH, or its path",
                word=words[0],
                problem=error.strerror,
            ) from None
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends ^C to the command as well
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, lambda number, frame: child.send_signal(number))
        code = child.wait()
    sys.exit(128 - code if code < 0 else code)
