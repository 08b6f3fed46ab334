"""The options of torchrun, as a program is launched with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from launcher.accelerators import table as accelerators
from launcher.cli import outputs
from launcher.cli.options import Count, Named, Seconds, hooks_option, with_options
from launcher.messages import Message
from launcher.strategies import table as strategies

MASTER_PORT = 29500
"""torchrun's own, for several nodes that name none."""
NOT_TAKEN = {
    "local_addr": Message("HCCL_IF_IP or GLOO_SOCKET_IFNAME name a node's own address"),
    "numa_binding": Message("start each rank under numactl with --no-python"),
    "virtual_local_rank": Message("LOCAL_RANK is the rank's own here"),
    "duplicate_stdout_filters": Message("filter the rank's log in the run directory"),
    "duplicate_stderr_filters": Message("filter the rank's log in the run directory"),
}
"""Options of torchrun that have no counterpart here, and what to do instead."""
ONLY = {
    "rdzv_backend": ({"static", "c10d"}, Message("every rank meets over one store of the agent's")),
    "event_log_handler": ({"null"}, Message("events are in events.jsonl of the run directory")),
    "logs_specs": ({"default"}, Message("logs are in the run directory")),
    "signals_to_handle": (
        {"SIGTERM,SIGINT,SIGHUP,SIGQUIT"},
        Message("SIGTERM, SIGINT and SIGUSR1 are passed on to the ranks"),
    ),
}
"""Options of torchrun that are taken with these values alone."""


CARDS = "gpu"
"""torchrun's word for one rank a card, whatever the cards are."""


class Ranks(Count):
    """torchrun's --nproc-per-node: a number, auto, or a kind of device."""

    name = "|".join(("N", "auto", *sorted(accelerators.BUILT_IN)))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        is_name = isinstance(value, str) and value != accelerators.AUTO and not value[:1].isdigit()
        if is_name and (value == CARDS or value in accelerators.TABLE):
            return value
        return super().convert(value, param, ctx)


class Nodes(click.ParamType):
    """torchrun's --nnodes: a number, or MIN:MAX where both are the same."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value is None or isinstance(value, int):
            return value
        least, _, most = str(value).partition(":")
        if most and most != least:
            raise click.BadParameter(
                Message("{value}: a job has one size here; give one number", value=value), ctx, param
            )
        if not (least.isascii() and least.isdecimal() and int(least)):
            raise click.BadParameter(Message("{value!r} is not a number of nodes", value=value), ctx, param)
        return int(least)


def _option(*names: str, env: str = "", **settings: Any) -> Any:
    """An option with torchrun's own PET_ variable, and ours before it."""
    variables = [f"ASCEND_LAUNCH_{env}"] if env else []
    variables.append("PET_" + names[-1].lstrip("-").replace("-", "_").upper())
    return click.option(*names, envvar=variables, **settings)


OPTIONS = [
    _option(
        "--nproc",
        "--nproc-per-node",
        type=Ranks(),
        env="NPROC",
        help="Ranks on this node [default: one a card, on CPU one].",
    ),
    click.option(
        "--device",
        type=Named(accelerators.TABLE, accelerators.AUTO),
        default="auto",
        envvar="ASCEND_LAUNCH_DEVICE",
        help="Where ranks compute [default: npu where there is one, else cpu].",
    ),
    _option(
        "--nnodes",
        type=Nodes(),
        env="NNODES",
        help="Nodes of the job [default: from the cluster's environment, else 1].",
    ),
    _option(
        "--node-rank",
        type=click.IntRange(0),
        env="NODE_RANK",
        help="Rank of this node, from 0 [default: from the cluster's environment].",
    ),
    _option("--master-addr", metavar="HOST", help="Host of node 0 [default: from the cluster's environment]."),
    _option(
        "--master-port",
        type=click.IntRange(1, 65535),
        metavar="PORT",
        help="Port on node 0 [default: a free one on one node, 29500 on several].",
    ),
    _option(
        "--rdzv-endpoint",
        metavar="HOST[:PORT]",
        env="RDZV_ENDPOINT",
        help="Host and port of node 0, the same on every node; another spelling of --master-addr and --master-port.",
    ),
    _option(
        "--rdzv-id", metavar="NAME", help="Name of the job, the same on every node: its run directory is called so."
    ),
    _option("--rdzv-conf", metavar="KEY=VALUE,...", help="join_timeout=SECONDS and rank=N are taken."),
    _option("--rdzv-backend", metavar="NAME", help="static or c10d, which are the same here."),
    _option("--standalone", is_flag=True, help="One node, whatever the cluster's environment says."),
    _option("-m", "--module", is_flag=True, help="PROGRAM is a module's name, as for python -m."),
    _option("--no-python", is_flag=True, help="PROGRAM is an executable, started as it is on every rank."),
    _option("--run-path", is_flag=True, help="Accepted as torchrun does; a script always runs as __main__ here."),
    _option(
        "--role",
        default="default",
        metavar="NAME",
        help="ROLE_NAME of the ranks, and the prefix of their lines [default: default].",
    ),
    _option(
        "--log-dir",
        type=outputs.Target(file_okay=False),
        metavar="FOLDER",
        help="Folder that run directories are made below [default: runs].",
    ),
    click.option(
        "--run-dir",
        type=outputs.Target(file_okay=False),
        metavar="FOLDER",
        help="Directory of this run [default: a new one below --log-dir].",
    ),
    _option(
        "-t",
        "--tee",
        default="0",
        metavar="0|1|2|3|RANK:1,...",
        help="Show standard output (1), standard error (2) or both (3) of these local ranks, each line with its rank; each stream has a log [default: local rank 0 alone, as it is].",
    ),
    _option(
        "-r",
        "--redirects",
        default="0",
        metavar="0|1|2|3|RANK:1,...",
        help="Keep standard output (1), standard error (2) or both (3) of these local ranks off the screen; each stream has a log, in the run directory.",
    ),
    _option("--local-ranks-filter", default="", metavar="RANK,...", help="Show the output of these local ranks only."),
    click.option(
        "--use-env",
        is_flag=True,
        hidden=True,
        help="With a line of torch.distributed.launch: no --local-rank=N before the arguments.",
    ),
    click.option(
        "--local-rank-option",
        is_flag=True,
        hidden=True,
        help="Put --local-rank=N before the arguments, as torch.distributed.launch does.",
    ),
    click.option(
        "--accelerate-config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Set what `accelerate launch --config_file FILE` sets for its ranks; its processes and machines count where no option says them.",
    ),
    click.option(
        "--strategy",
        type=Named(strategies.TABLE),
        help="Set what accelerate launch sets for this strategy, by a config made for it [default: nothing is set].",
    ),
    click.option(
        "--precision",
        type=click.Choice(["bf16", "fp16", "fp32"]),
        help="Set what accelerate launch sets for this precision [default: nothing is set].",
    ),
    click.option(
        "--accelerate-args",
        metavar="OPTIONS",
        help="More options of accelerate launch as one word, such as '--use_deepspeed --zero_stage 2'.",
    ),
    click.option("--no-preload", is_flag=True, help="Import nothing beforehand: each rank imports everything itself."),
    hooks_option,
    _option("--monitor-interval", type=float, hidden=True, help="Accepted: the end of a rank is heard at once."),
    _option("--shutdown-timeout", type=Seconds(0), hidden=True, help="Another name of --grace."),
    _option("--local-addr", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--numa-binding", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--virtual-local-rank", is_flag=True, hidden=True, help="Of torchrun; refused by name."),
    _option(
        "--duplicate-stdout-filters", hidden=True, help="Of torchrun; refused by name where it would change something."
    ),
    _option(
        "--duplicate-stderr-filters", hidden=True, help="Of torchrun; refused by name where it would change something."
    ),
    _option("--event-log-handler", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--logs-specs", hidden=True, help="Of torchrun; refused by name where it would change something."),
    _option("--signals-to-handle", hidden=True, help="Of torchrun; refused by name where it would change something."),
    click.option("--dry-run", is_flag=True, help="Show what would be started, and start nothing."),
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print events, one JSON object a line; the program's output is in the logs.",
    ),
]


OF_EVERY_LAUNCH = ("max_restarts", "start_method")
"""Options of torchrun's that recipes have as well; of a program alone do its variables count."""


def add_options(command: Any) -> Any:
    return with_options(OPTIONS, command)


def read_variables(command: click.Command) -> None:
    """Let torchrun's variables count for options that recipes have as well."""
    for param in command.params:
        if param.name in OF_EVERY_LAUNCH:
            param.envvar = f"PET_{param.name.upper()}"
