"""The store that the agents of a job meet in."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from launcher import network
from launcher.errors import LaunchError
from launcher.versions import numbers
from launcher.worker.agent.nodes.seal import NONCE, Seal

CONNECT_S = 5.0


def ranks_store(address: str, port: int = 0) -> Any:
    """The store of one attempt's ranks, at that address of this host alone; at all where it is ''. A new one each time: the
    last one's keys would lead ranks to peers that are gone.

    Port 0: no port is chosen, tried and lost to somebody else in between. A program may ask for one (--master-port).

    Raises:
        LaunchError: somebody else has that port.
    """
    try:
        return open_store(address, port)
    except ImportError:  # a program that needs no torch; whatever it meets by, it finds a free port
        return _NoStore(port)
    except (OSError, RuntimeError):
        if not port:
            raise
        raise LaunchError(
            "port {port} of this host is in use", hint="leave --master-port out, and a free one is taken", port=port
        ) from None


class _NoStore:
    """A port that was free a moment ago."""

    def __init__(self, port: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            self.port = probe.getsockname()[1]


def open_store(address: str, port: int) -> Any:
    """A store that is served at one address. torch by itself serves at every one of the host.

    Raises:
        OSError, RuntimeError: the port is taken.
    """
    import torch
    from torch.distributed import TCPStore

    network.ask_no_name_server()
    if not address:
        # By the loopback address: this node's own entries need no network.
        return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        port = listening.getsockname()[1]
        # The server of torch 2.6 and 2.7, libuv, takes no open socket; the one before it does in every release.
        more = {"use_libuv": False} if numbers(torch.__version__) < (2, 8) else {}
        fd = os.dup(listening.fileno())
        return TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=fd, **more)


def serve(host: str, port: int, seal: Seal) -> Any:
    """The first node's store, where the agents meet; it says at once which job it is of.

    Raises:
        LaunchError: the port is taken.
    """
    try:
        # Where all nodes are on this host, nobody else need reach them; a name may be another address elsewhere.
        store = open_store(host if host in ("127.0.0.1", "::1") else "", port)
        seal.begin()
        store.set(NONCE, seal.begun)
        return store
    except (RuntimeError, OSError) as error:
        if "EADDRINUSE" not in str(error) and "in use" not in str(error):
            raise
        raise LaunchError(
            "port {port} is taken on this, the first node",
            hint="end the other job (`ss -ltnp`), or choose another port on all nodes",
            port=port,
        ) from error


def client(address: str, port: int, timeout_s: float) -> tuple[bool, Any]:
    """Whether the first node's store was there in time, and it, or the exception."""
    from torch.distributed import TCPStore

    network.ask_no_name_server()
    timeout = timedelta(seconds=max(0.1, min(CONNECT_S, timeout_s)))
    return bounded(
        partial(TCPStore, address, port, is_master=False, wait_for_workers=False, timeout=timeout), 2 * CONNECT_S
    )


def bounded(call: Callable[[], Any], timeout_s: float) -> tuple[bool, Any]:
    """Whether a call came back in time, and its value or exception. One that did not is left to its thread."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(call())
        except (RuntimeError, OSError, ValueError) as error:
            box.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(box), box[0] if box else None
