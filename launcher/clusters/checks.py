"""What a scheduler gave the job, and whether its nodes reach each other."""

from __future__ import annotations

import re
import socket

from launcher import network
from launcher.accelerators.ascend.checks_hccl import bound_ports
from launcher.checks import Context, Finding, ok, skip
from launcher.clusters.slurm import script
from launcher.errors import LaunchError
from launcher.machine.nodes import is_loopback, split_endpoint


def check_cluster(ctx: Context) -> Finding:
    """Which environment was recognised, and by which variables."""
    name = "cluster"
    if ctx.unreadable is not None:
        return Finding(name, "fail", ctx.unreadable.what, "a launch here is refused", ctx.unreadable.hint)
    if not ctx.recognised:
        return ok(name, "no environment recognised" + (": one node" if ctx.num_nodes == 1 else ""))
    return ok(name, f"{ctx.num_nodes} node{'s' if ctx.num_nodes > 1 else ''}; {ctx.recognised}")


def check_slurm_cards(ctx: Context) -> Finding:
    """Asks the controller what the job was given."""
    name, job = "Slurm's cards", ctx.env.get("SLURM_JOB_ID")
    if not job or not ctx.recognised.startswith("Slurm"):
        return skip(name, "not a job of Slurm's")
    rc, text = ctx.run(["scontrol", "show", "job", "--oneliner", job])
    if rc != 0:
        return skip(name, f"scontrol does not say what job {job} was given")
    asked = re.search(r"\bTresPerNode=(\S+)", text)
    cards = script.cards(asked[1]) if asked else None
    if cards is None and re.search(r"\bOverSubscribe=NO\b", text):
        return ok(name, f"job {job} has its nodes to itself")
    if cards is None:
        return Finding(
            name,
            "warn",
            f"job {job} asked for no card by the name npu" + (f": {asked[1]}" if asked else ""),
            "Slurm may give the same cards to another job",
            "ask with --gres=npu:N, or for whole nodes with --exclusive",
        )
    if ctx.nproc is not None and ctx.nproc > cards:
        return Finding(
            name,
            "fail",
            f"job {job} has {cards} cards a node, and {ctx.nproc} ranks are wanted",
            "ranks would take cards of another job",
            f"--gres=npu:{ctx.nproc}, or --nproc {cards}",
        )
    return ok(name, f"job {job} has {cards} a node")


def check_rendezvous(ctx: Context) -> Finding:
    name = "rendezvous"
    if ctx.rdzv_endpoint is None:
        return ok(name, "a free port is taken at launch")
    try:
        host, port = split_endpoint(ctx.rdzv_endpoint)
    except LaunchError as error:
        return Finding(name, "fail", error.what, "the nodes cannot meet", error.hint)
    if ctx.is_first_node and bound_ports(ctx, [port]):
        return Finding(
            name,
            "fail",
            f"port {port} is taken on this, the first node",
            "the nodes cannot meet",
            "end the other job (`ss -ltnp`), or choose another port on all nodes",
        )
    return ok(name, f"{host}:{port}")


def check_way(ctx: Context) -> Finding:
    """Which interface gloo and HCCL will be given. Asks the resolver, which may take seconds."""
    name = "way to the first node"
    if ctx.rdzv_endpoint is None:
        return skip(name, "one node")
    try:
        host, _ = split_endpoint(ctx.rdzv_endpoint)
    except LaunchError:
        return skip(name, "not HOST:PORT")
    try:
        address = str(socket.getaddrinfo(host, None)[0][4][0])
    except OSError as error:
        return Finding(
            name, "fail", f"{host} cannot be resolved: {error}", "the nodes cannot meet", "use its IP address"
        )
    way = network.route_to(address)
    if way is None:
        return Finding(
            name,
            "fail",
            f"no way leads from here to {host}",
            "the nodes cannot meet",
            "look at `ip route`, or name an address of node 0 that all nodes reach",
        )
    if not ctx.is_first_node and is_loopback(way.peer):
        return Finding(
            name,
            "fail",
            f"{host} is {way.peer} here, which is this node",
            "the nodes cannot meet",
            "give node 0's own address in --rdzv-endpoint, or correct /etc/hosts",
        )
    chosen = ctx.env.get("GLOO_SOCKET_IFNAME")
    if chosen and way.interface and not is_loopback(way.peer) and way.interface not in chosen.split(","):
        return Finding(
            name,
            "warn",
            f"GLOO_SOCKET_IFNAME={chosen}, and the way to {host} is {way.interface}",
            "your value is kept, and gloo may listen where no other node reaches it",
            "unset it: a launch sets it",
        )
    return ok(name, f"{host} is {way.peer}, by {way.interface or 'an interface without a name'} ({way.own})")
