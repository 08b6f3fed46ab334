"""This host's place in the network: the way to another node, and blocks of ports for HCCL that no other job takes."""

from __future__ import annotations

import ctypes
import ipaddress
import resource
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CONNECT_S = 2.0
OWN_FILES = 128
"""More than an agent has open beside its connections."""


@dataclass(frozen=True)
class Route:
    """How this host reaches another address."""

    own: str
    """This host's address on the way."""
    peer: str
    """The other's address, resolved here."""
    interface: str | None
    """The network interface that owns `own`; None where that cannot be determined."""


def route_to(host: str) -> Route | None:
    """The way to a host; None where its name cannot be resolved or no way leads there."""
    with suppress(OSError):
        family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # a datagram socket: nothing is sent
            own, peer = str(probe.getsockname()[0]), str(probe.getpeername()[0])
        return Route(own, peer, interface_of(own))
    return None


def interface_of(address: str) -> str | None:
    """The network interface that owns an address of this host; None where none does."""
    import psutil

    bare = address.partition("%")[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address.partition("%")[0] == bare for a in addresses):
            return name
    return None


def files_needed(num_nodes: int, world_size: int) -> int:
    """What the first node's agent has open: a connection of each node, one of each rank, and its own."""
    return num_nodes + world_size + OWN_FILES


def open_many_files() -> None:
    """Raise this process's limit of open files to the most that it may have (`ulimit -Hn`)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a limit above the kernel's own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listener(host: str, port: int, timeout_s: float = CONNECT_S) -> str | None:
    """The address of the host at which somebody listens and can be reached; None where nobody does."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            return str(connection.getpeername()[0])
    except OSError:
        return None


def ask_no_name_server() -> None:
    """From now on, have this process know hosts by /etc/hosts and by address alone.

    torch's store asks what an address is called at each connection: each client of the server's, and the server, on the
    one thread that serves all clients, of each client's (formatSockAddr in c10d/socket.cpp, startRead in
    TCPStoreLibUvBackend.cpp). An answer that is lost costs all of them the resolver's 5 s, for a name that only torch's
    log would show. Numbers are shown instead where no name server is asked.
    """
    _look_up_hosts_in("files")


@contextmanager
def no_name_server(env: Mapping[str, str]) -> Iterator[None]:
    """The same for a while, for a rank that joins the others; afterwards names are looked up as /etc/nsswitch.conf says.

    Only where joining needs no name: the first node is given as a number, and gloo gets the interface.
    """
    if "GLOO_SOCKET_IFNAME" not in env or not _is_address(env.get("MASTER_ADDR", "")):
        yield
        return
    _look_up_hosts_in("files")
    try:
        yield
    finally:
        _look_up_hosts_in(_usual_places())


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _look_up_hosts_in(places: str) -> None:
    with suppress(AttributeError, OSError):  # glibc's (nss.h); torch has no wheels for another C library
        ctypes.CDLL(None).__nss_configure_lookup(b"hosts", places.encode())


def _usual_places() -> str:
    with suppress(OSError):
        for line in Path("/etc/nsswitch.conf").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, places = line.partition("#")[0].partition(":")
            if name.strip() == "hosts" and places.strip():
                return places.strip()
    return "files dns"
