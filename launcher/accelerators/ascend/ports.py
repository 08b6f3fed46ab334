"""The ports that HCCL listens on: free blocks of them, for ranks that share a host."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

PORTS_OF_A_BLOCK = 32
"""HCCL takes so many from HCCL_IF_BASE_PORT upward (hicann/hccl docs, HCCL_IF_BASE_PORT)."""
BLOCKS = (60000, *range(61000, 65505, PORTS_OF_A_BLOCK))
"""HCCL's own default first; then above the kernel's range for outgoing connections, which ends at 60999."""
OFFERED = 8


class Blocks:
    """Blocks of ports on this host that this process holds the name of, until it ends.

    A port that HCCL is going to take cannot be held by binding it; so what is bound is a name, which every agent of this
    host asks for (an abstract socket: gone with its process, and its own in each network namespace, as ports are).
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._held: dict[int, list[socket.socket]] = {}

    def offer(self, count: int = OFFERED) -> list[int]:
        """Take names until `count` blocks are held, the lowest that are free; all that are held."""
        for base in BLOCKS:
            if len(self._held) >= count:
                break
            if base not in self._held and _is_free(base):
                self._take(base)
        return sorted(self._held)

    def keep(self, base: int) -> None:
        """Let go of all blocks but one."""
        for other in [b for b in self._held if b != base]:
            for name in self._held.pop(other):
                name.close()

    def close(self) -> None:
        self.keep(-1)

    def _take(self, base: int) -> None:
        own = _bound(f"ascend-launch/hccl/{base}/{self._job}")
        if own is None:  # an agent of the same job has it: their ranks have cards, and so ports, of their own
            self._held[base] = []
            return
        shared = _bound(f"ascend-launch/hccl/{base}")
        if shared is None:
            own.close()
            return
        self._held[base] = [own, shared]


def _bound(name: str) -> socket.socket | None:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind("\0" + name)
    except OSError as error:
        holder.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return holder


def _is_free(base: int) -> bool:
    """Whether all ports of a block could be bound now, over IPv4 and IPv6."""
    family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
    for port in range(base, base + PORTS_OF_A_BLOCK):
        try:
            with _listener(family) as probe:
                probe.bind(("", port))
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT or family == socket.AF_INET:
                return False
            family = socket.AF_INET  # a kernel without IPv6
            with suppress(OSError), _listener(family) as probe:
                probe.bind(("", port))
                continue
            return False
    return True


def _listener(family: socket.AddressFamily) -> socket.socket:
    probe = socket.socket(family, socket.SOCK_STREAM)
    # As HCCL's own: a port whose last connection is only being forgotten (TIME_WAIT) counts as free.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return probe
