"""How the agents of a job's nodes meet and keep in touch. One node needs none of it, and gets the same interface."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.worker import failure

JOIN_TIMEOUT_S = 600
STORE_TIMEOUT_S = 10
BEAT_S = 1.0
LOST_AFTER_S = 20.0
"""A node that has not been heard of for so long is lost. Its agent beats from a thread-free loop every second."""


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of one attempt find each other's addresses."""

    host: str
    port: int


class Link(Protocol):
    """What the agent needs of the other nodes."""

    def join(self, attempt: int) -> Meeting:
        """Wait until every node is there for this attempt."""

    def pulse(self, is_failed: bool) -> bool:
        """Tell that this node lives and whether one of its ranks failed; whether another node's did, or is lost."""

    def settle(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """Report this node's failure, or None for success; the failure that counts on all nodes, or None."""

    def close(self) -> None:
        """Leave."""


class OneNode:
    """A single node: the agent serves the ranks' store itself, on a port that the kernel chose."""

    def __init__(self) -> None:
        self._store: Any = None

    def join(self, attempt: int) -> Meeting:
        from torch.distributed import TCPStore

        # Port 0: no port is chosen, tried and lost to somebody else in between. A new store for every attempt: the
        # keys of the last one would lead ranks to peers that are gone.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        return Meeting("127.0.0.1", self._store.port)

    def pulse(self, is_failed: bool) -> bool:
        return False

    def settle(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        return found

    def close(self) -> None:
        self._store = None


class ManyNodes:
    """Several nodes, by torch elastic's c10d rendezvous; what they tell each other lies in the store it returns."""

    def __init__(self, *, name: str, endpoint: str, num_nodes: int, node_rank: int, digest: str) -> None:
        self.num_nodes, self.node_rank, self.digest = num_nodes, node_rank, digest
        self.endpoint = endpoint
        self._handler = self._create(name)
        self._store: Any = None
        self._told = False
        self._last_s = 0.0
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._lost: str | None = None

    def _create(self, name: str) -> Any:
        from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousParameters
        from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
        from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

        logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
        host, _, port = self.endpoint.rpartition(":")
        host = host.strip("[]")
        if self.node_rank == 0:
            _require_free(host, int(port))
        parameters = RendezvousParameters(
            "c10d",
            self.endpoint,
            name,
            self.num_nodes,
            self.num_nodes,
            local_addr=_address_towards(host),
            is_host=str(self.node_rank == 0).lower(),
            read_timeout=60,
            join_timeout=JOIN_TIMEOUT_S,
        )
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        while True:
            try:
                backend, store = create_backend(parameters)
                return create_handler(store, backend, parameters)
            except RendezvousConnectionError as error:
                if self.node_rank == 0 or time.monotonic() > deadline:
                    raise LaunchError(
                        f"node {self.node_rank} cannot reach the first node at {self.endpoint}",
                        hint="start the launcher there too, with --node-rank 0; check the address, the port and firewalls",
                        exit_code=EXIT_JOB_FAILED,
                    ) from error

    def join(self, attempt: int) -> Meeting:
        from torch.distributed import PrefixStore
        from torch.distributed.elastic.rendezvous import RendezvousError

        try:
            info = self._handler.next_rendezvous()
        except (RendezvousError, RuntimeError) as error:
            raise LaunchError(
                f"not all {self.num_nodes} nodes came to {self.endpoint} within {JOIN_TIMEOUT_S} s",
                hint="look at the nodes whose agent.log ends before this one's",
                exit_code=EXIT_JOB_FAILED,
            ) from error
        self._store = PrefixStore(f"launcher/attempt_{attempt}", info.store)
        self._store.set_timeout(timedelta(seconds=STORE_TIMEOUT_S))
        self._told, self._heard, self._lost = False, {}, None
        self._compare_plans()
        return Meeting(info.bootstrap_store_info.master_addr, info.bootstrap_store_info.master_port)

    def _compare_plans(self) -> None:
        self._store.set(f"plan_{self.node_rank}", self.digest)
        for node in range(self.num_nodes):
            other = self._store.get(f"plan_{node}").decode()
            if other != self.digest:
                raise LaunchError(
                    f"node {node} runs another plan than node {self.node_rank}",
                    hint="give every node the same recipe, overrides and versions; compare plan.json on both",
                )

    def pulse(self, is_failed: bool) -> bool:
        now = time.monotonic()
        if now - self._last_s < BEAT_S and not (is_failed and not self._told):
            return False
        self._last_s = now
        return self._guarded(lambda: self._exchange(is_failed)) or self._lost is not None

    def _exchange(self, is_failed: bool) -> bool:
        now = time.monotonic()
        self._store.set(f"beat_{self.node_rank}", repr(now))
        if is_failed and not self._told:
            self._told = True
            self._store.add("failed", 1)
        # The first node listens to all, the others to the first: the store is asked n times a second, not n x n.
        watched = range(1, self.num_nodes) if self.node_rank == 0 else [0]
        for node in watched:
            self._listen(node, now)
        if self._lost is not None and not self._told:
            self._told = True
            self._store.add("failed", 1)
        return bool(int(self._store.add("failed", 0)) > int(self._told))

    def _listen(self, node: int, now: float) -> None:
        key = f"beat_{node}"
        beat = self._store.get(key) if self._store.check([key]) else b""
        previous, since = self._heard.get(node, (b"", now))
        self._heard[node] = (beat, now if beat != previous else since)
        if now - self._heard[node][1] > LOST_AFTER_S and not self._store.check([f"report_{node}"]):
            self._lost = f"node {node} has not been heard of for {LOST_AFTER_S:.0f} s"

    def settle(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        report = json.dumps(found)
        if not self._guarded(lambda: self._store.set(f"report_{self.node_rank}", report) or True):
            return found or self._lost_record()
        decided: dict[str, Any] | None = self._collect(found) if self.node_rank == 0 else self._await_verdict(found)
        return decided

    def _collect(self, own: dict[str, Any] | None) -> dict[str, Any] | None:
        reports: dict[int, dict[str, Any] | None] = {0: own}
        while len(reports) < self.num_nodes:
            self.pulse(own is not None or any(reports.values()))
            for node in range(1, self.num_nodes):
                if node not in reports and self._store.check([f"report_{node}"]):
                    reports[node] = json.loads(self._store.get(f"report_{node}"))
            if self._lost is not None:
                break
            time.sleep(0.05)
        failures = [r for r in reports.values() if r is not None]
        if self._lost is not None:
            failures.append(self._lost_record())
        # Monotonic clocks of two hosts have nothing in common, so across nodes the wall clock orders.
        decided = failure.first([{**f, "time_ns": f.get("time", 0)} for f in failures])
        self._guarded(lambda: self._store.set("verdict", json.dumps(decided)) or True)
        return decided

    def _await_verdict(self, own: dict[str, Any] | None) -> dict[str, Any] | None:
        while True:
            self.pulse(own is not None)
            if self._lost is not None:
                return own if own and own.get("weight") == failure.CAUSE else self._lost_record()
            if self._guarded(lambda: self._store.check(["verdict"])):
                verdict: dict[str, Any] | None = json.loads(self._store.get("verdict"))
                return verdict
            time.sleep(0.05)

    def _lost_record(self) -> dict[str, Any]:
        what = self._lost or "the other nodes are out of reach"
        return {
            "rank": None,
            "type": "NodeLost",
            "message": what,
            "what": what,
            "hint": "look at that node: power, network, and the agent.log in its run directory",
            "weight": failure.CAUSE,
            "exit_code": EXIT_JOB_FAILED,
            "time": time.time(),
            "traceback": "",
        }

    def _guarded(self, call: Callable[[], Any]) -> bool:
        """Talk to the store; where that fails, the node that serves it is lost."""
        try:
            return bool(call())
        except RuntimeError:  # torch's DistError family: network, store and backend errors are all RuntimeErrors
            self._lost = self._lost or f"the first node, at {self.endpoint}, is out of reach"
            return False

    def close(self) -> None:
        self._handler.shutdown()
        self._store = None


def _require_free(host: str, port: int) -> None:
    del host  # the store listens on every address
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise LaunchError(
                f"port {port} of --rdzv-endpoint is taken on this node: {error.strerror}",
                hint="name another port, the same on every node, or end the job that holds it (`ss -ltnp`)",
            ) from None


def _address_towards(host: str) -> str | None:
    """This node's own address on the way to `host`; None where that cannot be told."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # a datagram socket: nothing is sent
            return str(probe.getsockname()[0])
    except OSError:
        return None
