"""Where the nodes of a job that is started by ssh will meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from launcher.clusters.ssh.connection import Answer, address_of
from launcher.clusters.ssh.node import Job, Node, refuse
from launcher.errors import LaunchError
from launcher.machine.nodes import join_endpoint, split_endpoint
from launcher.messages import Message

Ask = Callable[[str, Mapping[Node, dict[str, Any]]], dict[Node, Answer]]
"""`Fleet.ask`: sends a request to each node, and has all answers."""


def meet(job: Job, nodes: list[Node], ask: Ask) -> str | None:
    """Where the nodes will meet: the user's endpoint, or the first host's address as the others reach it and a free
    port. Either is tried out."""
    first, others = nodes[0], nodes[1:]
    if not others:
        return None
    port: int | None = None
    if job.endpoint is not None:
        name, port = split_endpoint(job.endpoint)
    else:
        name = address_of(first.connection.host, job.ssh_config)
    resolved = [a["addresses"] for a in ask("resolve", {n: {"name": name} for n in others}).values()]
    candidates = [a for a in resolved[0] if all(a in addresses for addresses in resolved)]
    if first.address is not None and job.endpoint is None:
        candidates.append(first.address)
    if not candidates:
        hint: str = Message("give every host the same address for it, or name one with --rdzv-endpoint HOST:PORT")
        raise LaunchError(
            Message("{other} does not know the address of {name}, the first host", other=others[0].name, name=name),
            hint=hint,
        )
    heard = ask("listen", {first: {"addresses": candidates, "port": port}})[first]
    address = heard["address"] or candidates[0]
    tried = ask("reach", {n: {"address": address, "port": heard["port"]} for n in others})
    endpoint = join_endpoint(address, heard["port"])
    hint = Message("open that port in the firewall, or name another address or port with --rdzv-endpoint HOST:PORT")
    refuse(
        {
            n: (
                Message(
                    "cannot reach {first} at {endpoint}: {error}",
                    first=first.name,
                    endpoint=endpoint,
                    error=a["error"],
                ),
                hint,
            )
            for n, a in tried.items()
            if a["error"]
        }
    )
    return job.endpoint or endpoint
