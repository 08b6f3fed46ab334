"""What torchrun's options say of ranks and nodes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from launcher.accelerators import table as accelerators
from launcher.cli import options
from launcher.cli.program_options import CARDS, MASTER_PORT
from launcher.errors import LaunchError
from launcher.jobs.options import Machine

if TYPE_CHECKING:
    from launcher.planning.plan import Supervision


def machine_of(given: dict[str, Any]) -> Machine:
    """Ranks, device and nodes; None for what the cluster's environment or the machine says.

    Raises:
        LaunchError: options that say the same, or have no counterpart.
    """
    nproc, device = _ranks(given["nproc"], given["device"])
    count, rank, endpoint = _nodes(given)
    if count is not None and count > 1 and (rank, endpoint) == (None, None):
        # Said again of what the cluster says, which also numbers the nodes.
        count = None if _counts(os.environ, count) else count
    return Machine(nproc=nproc, device=device, nnodes=count, node_rank=rank, rdzv_endpoint=endpoint)


def _ranks(asked: Any, device: str) -> tuple[int | None, str]:
    if asked == CARDS:
        return None, device
    if not isinstance(asked, str):
        return asked, device
    return None if accelerators.load(asked).has_cards else os.cpu_count() or 1, asked


def _nodes(given: dict[str, Any]) -> tuple[int | None, int | None, str | None]:
    """Count, rank and endpoint as the options say them; None for what they leave to the cluster's environment."""
    if given["standalone"] and given["nnodes"] not in (None, 1):
        raise LaunchError(
            "--standalone is a job of one node, and --nnodes says {nnodes}",
            hint="leave one out",
            nnodes=given["nnodes"],
        )
    # torchrun's examples say "a free port of this machine" so.
    on_any_port = str(given["rdzv_endpoint"]).endswith(":0") and given["nnodes"] in (None, 1)
    if given["standalone"] or on_any_port:
        return 1, None, None
    conf = _rdzv_conf(given)
    rank = given["node_rank"] if given["node_rank"] is not None else conf
    endpoint, count = given["rdzv_endpoint"], given["nnodes"]
    if given["master_addr"] and endpoint:
        raise LaunchError("--master-addr and --rdzv-endpoint say the same", hint="leave one out")
    host = given["master_addr"] or endpoint
    if count == 1 or (host is None and count is None):
        return count, rank if count is None else None, None
    if host is None:
        return count, rank, None
    if given["master_addr"] or ":" not in host.rpartition("]")[2]:
        from launcher.machine.nodes import join_endpoint

        port = given["master_port"] or (MASTER_PORT if given["master_addr"] else 29400)
        host = join_endpoint(host, port)
    return count, rank, host


def _counts(env: Mapping[str, str], count: int) -> bool:
    """Whether the cluster's environment says that many nodes."""
    from launcher.clusters import environment

    try:
        return environment.find(env, pretend=True).count == count
    except LaunchError:
        return False


def _rdzv_conf(given: dict[str, Any]) -> int | None:
    """The node's rank by --rdzv-conf; its join_timeout goes into the options.

    Raises:
        LaunchError: a key that has no counterpart.
    """
    rank = None
    for part in filter(None, (given["rdzv_conf"] or "").split(",")):
        key, _, value = part.partition("=")
        if key == "join_timeout" and value.isdecimal():
            given["join_timeout"] = float(value)
        elif key == "rank" and value.isdecimal():
            rank = int(value)
        elif key not in ("timeout", "read_timeout", "is_host"):  # of the store's, which the agent looks after
            raise LaunchError(
                "--rdzv-conf {part} is not supported", hint="join_timeout=SECONDS and rank=N are taken", part=part
            )
    return rank


def supervision_of(given: dict[str, Any]) -> Supervision:
    """How the ranks are watched. After `machine_of`, which puts the time to join among the options."""
    if given["shutdown_timeout"] is not None:
        given["grace"] = given["shutdown_timeout"]
    return options.supervision_of(given).model_copy(
        update={"preload": not given["no_preload"], "hooks": given["hooks"]}
    )
