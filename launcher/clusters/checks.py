"""Which cluster the doctor sees, and whether the nodes reach each other."""

from __future__ import annotations

import socket

from launcher import network
from launcher.checks import Context, Finding, bound_ports, ok, port_holder, skip
from launcher.errors import LaunchError
from launcher.machine.nodes import is_loopback, split_endpoint
from launcher.messages import Message, plural


def check_cluster(ctx: Context) -> Finding:
    """Which environment was recognised, and by which variables."""
    name = "cluster"
    if ctx.unreadable is not None:
        return Finding(name, "fail", ctx.unreadable.what, "a launch here is refused", ctx.unreadable.hint)
    if not ctx.recognised:
        return ok(name, plural("no environment recognised: one node", "no environment recognised", count=ctx.num_nodes))
    return ok(
        name,
        plural(
            "{count} node; {recognised}", "{count} nodes; {recognised}", count=ctx.num_nodes, recognised=ctx.recognised
        ),
    )


def check_rendezvous(ctx: Context) -> Finding:
    name = "rendezvous"
    if ctx.rdzv_endpoint is None:
        return ok(name, "a free port is taken at launch")
    try:
        host, port = split_endpoint(ctx.rdzv_endpoint)
    except LaunchError as error:
        return Finding(name, "fail", error.what, "the nodes cannot meet", error.hint)
    if ctx.is_first_node and bound_ports(ctx, [port]):
        who, way_out = port_holder(ctx, port, f" --rdzv-endpoint {ctx.rdzv_endpoint}")
        return Finding(
            name,
            "fail",
            Message("port {port} is taken on this, the first node, by {who}", port=port, who=who),
            "the nodes cannot meet",
            Message("{way_out}; or choose another port on all nodes", way_out=way_out),
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
            name,
            "fail",
            Message("{host} cannot be resolved: {error}", host=host, error=error),
            "the nodes cannot meet",
            "use its IP address",
        )
    way = network.route_to(address)
    if way is None:
        return Finding(
            name,
            "fail",
            Message("no way leads from here to {host}", host=host),
            "the nodes cannot meet",
            "look at `ip route`, or name an address of node 0 that all nodes reach",
        )
    if not ctx.is_first_node and is_loopback(way.peer):
        return Finding(
            name,
            "fail",
            Message("{host} is {peer} here, which is this node", host=host, peer=way.peer),
            "the nodes cannot meet",
            "give node 0's own address in --rdzv-endpoint, or correct /etc/hosts",
        )
    chosen = ctx.env.get("GLOO_SOCKET_IFNAME")
    if chosen and way.interface and not is_loopback(way.peer) and way.interface not in chosen.split(","):
        return Finding(
            name,
            "warn",
            Message(
                "GLOO_SOCKET_IFNAME={chosen}, and the way to {host} is {interface}",
                chosen=chosen,
                host=host,
                interface=way.interface,
            ),
            "your value is kept, and gloo may listen where no other node reaches it",
            "unset it: a launch sets it",
        )
    return ok(
        name,
        Message(
            "{host} is {peer}, by {interface} ({own})",
            host=host,
            peer=way.peer,
            interface=way.interface or Message("an interface without a name"),
            own=way.own,
        ),
    )
