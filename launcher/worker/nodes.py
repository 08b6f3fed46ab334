"""How the agents of a job's nodes meet and keep in touch. One node needs none of it, and gets the same interface.

The first node's agent serves one of torch's TCPStores at the endpoint. Every node writes what there is to know of it
under a key of its own; the others read the first node's, and the first node reads all and decides. Torch elastic's
c10d rendezvous stands in the way: it hands the second attempt the first one's store, keys and all; it numbers nodes by
their addresses; and its calls, as all calls of a TCPStore, never return on a link that was cut. So the store is used
alone, on a thread of its own, and what counts is how long ago a node was last heard of.

Whoever reaches the store can write to it. What is not a node's word is passed over (see `seal`), and said once.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

from launcher import records, scrub
from launcher.cluster import network
from launcher.cluster.nodes import split_endpoint
from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.plan import Plan
from launcher.records import NODE_LOST, Failure
from launcher.rundir import JOB_SECRET
from launcher.worker import failure, sameness, seal

TICK_S = 0.1
BEAT_S = 1.0
LOST_AFTER_S = 15.0
"""A node that has not been heard of for so long is lost. The thread that beats does nothing else."""
LEAVE_S = 5.0
"""What the last words of an agent may take to reach the first node."""
CONNECT_S = 5.0
REACH_S = 20.0
"""How long a node tries to reach the store of the first node's ranks, at any of its addresses."""
CHOSEN_PORTS = ("HCCL_IF_BASE_PORT", "HCCL_HOST_SOCKET_PORT_RANGE")
"""Where the user has set one of these, no block of ports is agreed on."""
FAILED, STALLED = "failed", "stalled"
Record = dict[str, Any]


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of one attempt find each other's addresses."""

    host: str
    port: int
    attempt: int
    interface: str | None = None
    """The network interface towards the other nodes."""
    hccl_base: int | None = None
    """The first of HCCL's ports, free on every node; None where there is none to choose."""


class Link(Protocol):
    """What the agent needs of the other nodes. Every wait ends early when this node or another is told to stop."""

    def meet(self) -> None:
        """Wait until every node has come, with the same plan.

        Raises:
            LaunchError: one did not come in time, runs another plan, or is lost.
        """

    def declare(self, prepared: Record) -> None:
        """Say what was prepared here, which has to be the same on every node."""

    def pulse(self, trouble: str) -> str:
        """Tell what is wrong here ('', FAILED or STALLED), and hear what is wrong anywhere."""

    def join(self, attempt: int, found: Failure | None) -> Meeting | Failure | None:
        """Where the next attempt's ranks meet; or the failure before it, on this node (`found`) or another; or None
        where the job is told to stop. `attempt` is the number this node would give it."""

    def settle(self, found: Failure | None, again: Callable[[Failure], bool]) -> tuple[Failure | None, bool]:
        """Report this node's failure, or None for success; the failure that counts on all nodes, and whether there is
        another attempt, for which the first node asks `again`."""

    def give_up(self, found: Failure) -> None:
        """Tell the others that the job ends here, outside of any attempt."""

    def close(self) -> None:
        """Leave, once the others know all they need."""


class OneNode:
    """A single node: the agent serves the ranks' store itself, on a port that the kernel chose."""

    def __init__(self, plan: Plan, job: str) -> None:
        self._store: Any = None
        self._port = split_endpoint(plan.rdzv_endpoint)[1] if plan.rdzv_endpoint else 0
        self._blocks = _blocks(plan, job)

    def meet(self) -> None:
        return

    def declare(self, prepared: Record) -> None:
        return

    def pulse(self, trouble: str) -> str:
        return trouble

    def join(self, attempt: int, found: Failure | None) -> Meeting | Failure | None:
        if found is not None:
            return found
        self._store = None  # the last one has the port, where one was asked for
        self._store = _ranks_store("127.0.0.1", self._port)
        base = None
        if self._blocks is not None:
            base = next(iter(self._blocks.offer(1)), None)
        return Meeting("127.0.0.1", self._store.port, attempt, None, base)

    def settle(self, found: Failure | None, again: Callable[[Failure], bool]) -> tuple[Failure | None, bool]:
        return found, found is not None and again(found)

    def give_up(self, found: Failure) -> None:
        return

    def close(self) -> None:
        self._store = None


def _blocks(plan: Plan, job: str) -> network.Blocks | None:
    """Where HCCL's ports are chosen from; None without HCCL, and where the user has chosen."""
    if plan.backend != "hccl" or any(os.environ.get(name) for name in CHOSEN_PORTS):
        return None
    return network.Blocks(job)


def _ranks_store(address: str, port: int = 0) -> Any:
    """The store of one attempt's ranks, at that address of this host alone; at all where it is ''. A new one each time: the
    last one's keys would lead ranks to peers that are gone.

    Port 0: no port is chosen, tried and lost to somebody else in between. A program may ask for one (--master-port).

    Raises:
        LaunchError: somebody else has that port.
    """
    try:
        return _store(address, port)
    except ImportError:  # a program that needs no torch; whatever it meets by, it finds a free port
        return _NoStore(port)
    except (OSError, RuntimeError):
        if not port:
            raise
        raise LaunchError(
            f"port {port} of this host is in use", hint="leave --master-port out, and a free one is taken"
        ) from None


class _NoStore:
    """A port that was free a moment ago."""

    def __init__(self, port: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            self.port = probe.getsockname()[1]


def _store(address: str, port: int) -> Any:
    """A store that is served at one address. torch by itself serves at every one of the host.

    Raises:
        OSError, RuntimeError: the port is taken.
    """
    from torch.distributed import TCPStore

    network.ask_no_name_server()
    if not address:
        # By the loopback address: this node's own words need no network.
        return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        port = listening.getsockname()[1]
        return TCPStore(
            address, port, is_master=True, wait_for_workers=False, master_listen_fd=os.dup(listening.fileno())
        )


class ManyNodes:
    """Several nodes. What a node says of itself, under its key:

    - `ready`: the round it would take part in; a round is one attempt, numbered by the first node
    - `trouble`: what is wrong in this round; `stop`: the signal it was told to stop by
    - `report`: how the round ended here, or, with no round, that this node gives up
    - and the first node: `round`, `phase`, `port`, `attempt` and `verdict`, which all follow
    """

    def __init__(
        self, plan: Plan, node_rank: int, *, stop: Callable[[], int | None], on_stop: Callable[[int], None],
        secret: str = "", note: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        assert plan.rdzv_endpoint is not None
        self.plan, self.node_rank, self.num_nodes = plan, node_rank, plan.num_nodes
        self.endpoint = plan.rdzv_endpoint
        self.host, self.port = split_endpoint(self.endpoint)
        self.timeout_s = plan.supervision.join_timeout_s
        self._stop, self._on_stop, self._note = stop, on_stop, note
        self._seal, self._has_noted = seal.Seal(secret), False
        self._is_first = node_rank == 0
        self._others = range(1, self.num_nodes) if self._is_first else range(1)
        self._round = 0
        self._lost: dict[int, Failure] = {}
        self._board: _Board | None = None
        self._ranks_store: Any = None
        self._blocks = _blocks(plan, self.endpoint)
        self._route = network.route_to(self.host)
        self._address = self._route.peer if self._route else self.host
        """The first node's, as this node found it: a number, since no name server is asked once the nodes meet."""
        self._prepared: Record = {}
        self._same: set[int] = set()
        self._introduction: Record = scrub.value({
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "session": secrets.token_hex(8),
            "address": self._route and self._route.own,
            "first": self._route and self._route.peer,
            **sameness.introduction(plan),
        })  # fmt: skip

    # -- meeting ----------------------------------------------------------------------------------------------------

    def meet(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        store = self._serve() if self._is_first else self._connect(deadline)
        if store is None:
            return
        if not self._is_first and not self._knows_the_job(store, deadline):
            return
        self._board = _Board(store, self.node_rank, self._others, self._introduction, self._seal)
        while not self._is_stopping():
            self._refuse_others(self._board.met)
            if len(self._board.met) == len(self._others):
                return
            self._raise_if_over()
            if self._board.taken_by and self._board.taken_for_s > LOST_AFTER_S + LEAVE_S:
                raise LaunchError(
                    f"{self._board.taken_by} is node {self.node_rank} of the job at {self.endpoint} already",
                    hint="give every node a --node-rank of its own",
                )
            if time.monotonic() > deadline:
                raise self._absent() if self._is_first else self._unreachable()
            time.sleep(TICK_S / 2)

    def _knows_the_job(self, store: Any, deadline: float) -> bool:
        """Hear from the first node which job this is; False where this node is told to stop before.

        Raises:
            LaunchError: the first node's secret is another.
        """
        until = min(deadline, time.monotonic() + LOST_AFTER_S)  # somebody else's word there is soon replaced
        while not self._is_stopping():
            if store.check([seal.NONCE]) and self._seal.join(store.get(seal.NONCE)):
                return True
            if time.monotonic() > until:
                raise LaunchError(
                    f"node {self.node_rank} and the first node at {self.endpoint} do not have the same {JOB_SECRET}",
                    hint=f"export one {JOB_SECRET} on every node, or none on any; `openssl rand -hex 32` makes one",
                )
            time.sleep(TICK_S)
        return False

    def _absent(self) -> LaunchError:
        assert self._board is not None
        absent = [str(n) for n in self._others if n not in self._board.met]
        return LaunchError(
            f"node{'s' if len(absent) > 1 else ''} {', '.join(absent)} of {self.num_nodes} did not come to {self.endpoint} "
            f"within {self.timeout_s:.0f} s",
            hint="start the launcher there too, each with its own --node-rank; --join-timeout sets the limit",
            exit_code=EXIT_JOB_FAILED,
        )

    def _serve(self) -> Any:
        network.open_many_files()
        if not self._seal.is_set:
            self._note(
                f"the nodes do not check who writes to {self.endpoint}: whoever reaches it can end this job; "
                f"export one {JOB_SECRET} on every node (`openssl rand -hex 32` makes one)"
            )
        try:
            # Where all nodes are on this host, nobody else need reach them; a name may be another address elsewhere.
            store = _store(self.host if self.host in ("127.0.0.1", "::1") else "", self.port)
            self._seal.begin()
            store.set(seal.NONCE, self._seal.begun)
            return store
        except (RuntimeError, OSError) as error:
            if "EADDRINUSE" not in str(error) and "in use" not in str(error):
                raise
            raise LaunchError(
                f"port {self.port} is taken on this, the first node",
                hint="end the other job (`ss -ltnp`), or choose another port on all nodes",
            ) from error

    def _connect(self, deadline: float) -> Any:
        """The first node's store; None where this node is told to stop before it is there."""
        from torch.distributed import TCPStore

        value: Any = None
        while not self._is_stopping():
            # The name first: it may lead elsewhere by now.
            found = network.listener(self.host, self.port) or network.listener(self._address, self.port)
            if found is not None:
                self._address = found
                network.ask_no_name_server()
                timeout = timedelta(seconds=max(0.1, min(CONNECT_S, deadline - time.monotonic())))
                done, value = _bounded(
                    partial(TCPStore, found, self.port, is_master=False, wait_for_workers=False, timeout=timeout),
                    2 * CONNECT_S,
                )
                if done and not isinstance(value, Exception):
                    value.set_timeout(timedelta(seconds=2 * LOST_AFTER_S))  # silence is judged by the beats alone
                    return value
            if time.monotonic() > deadline:
                raise self._unreachable() from (value if isinstance(value, Exception) else None)
            time.sleep(TICK_S)
        return None

    def _unreachable(self) -> LaunchError:
        return LaunchError(
            f"node {self.node_rank} found no first node at {self.endpoint} within {self.timeout_s:.0f} s",
            hint="start the launcher there too, with --node-rank 0; check the address, the port and firewalls; "
            "--join-timeout sets the limit",
            exit_code=EXIT_JOB_FAILED,
        )

    def _refuse_others(self, met: Mapping[int, Record]) -> None:
        """Raise LaunchError for a node that is not what this one is; each is looked at once."""
        for node in sorted(met.keys() - self._same):
            self._refuse_different(node, self._introduction, met[node])
            self._same.add(node)

    def _refuse_different(self, node: int, own: Record, other: Record) -> None:
        found = sameness.difference(own, other)
        if found is not None:
            assert self._board is not None
            verb, values, hint = found
            host = self._board.met[node]["host"]
            raise LaunchError(f"node {node} ({host}) {verb} than node {self.node_rank}: {values}", hint=hint)

    def declare(self, prepared: Record) -> None:
        self._prepared = prepared

    # -- what is known of the others ----------------------------------------------------------------------------------

    def _state(self, node: int) -> Record:
        assert self._board is not None
        return self._board.seen.get(node, _NOTHING).state

    def _look(self) -> None:
        """Hear who was told to stop, and see who is lost."""
        self._is_stopping()
        board = self._board
        if board is None:
            return
        if board.num_foreign and not self._has_noted:
            self._has_noted = True
            self._note(f"somebody else writes to {self.endpoint}, where the nodes of this job meet; it is passed over")
        for node in self._others:
            seen = board.seen.get(node, _NOTHING)
            if node in self._lost or (seen.state.get("left") and self._said_why(node)):
                continue
            silent_s = time.monotonic() - seen.heard_s if seen is not _NOTHING else 0.0
            if silent_s > LOST_AFTER_S or board.error or seen.state.get("left"):
                self._lost[node] = self._lost_record(node, silent_s)

    def _said_why(self, node: int) -> bool:
        """Whether a node that left said how it ended: it was told to stop, or has reported or decided this round."""
        state = self._state(node)
        verdict = state.get("verdict")
        return state.get("stop") is not None or bool(verdict and not verdict["again"]) or bool(self._closing(node))

    def _lost_record(self, node: int, silent_s: float) -> Failure:
        assert self._board is not None
        host = self._board.met.get(node, {}).get("host", "?")
        gone = (
            f"its launcher at {self.endpoint} gave this node up, which had stood still"
            if self._board.is_given_up
            else f"its launcher at {self.endpoint} is gone"
            if self._board.error
            else "its launcher ended and did not say how"
            if self._state(node).get("left")
            else f"nothing heard of it for {silent_s:.0f} s"
        )
        what = f"node {node} ({host}) is lost: {gone}"
        return Failure.of(
            rank=None,
            node_rank=node,
            host=host,
            type=NODE_LOST,
            message=what,
            what=what,
            hint="look at that node: its power and network, and agent.log in its run directory",
            traceback="",
            weight=failure.CAUSE,
            exit_code=EXIT_JOB_FAILED,
            time=time.time() - silent_s,
            time_ns=time.monotonic_ns() - int(silent_s * 1e9),
        )

    def _is_stopping(self) -> bool:
        """Whether the job is told to stop, on whichever node: it stops on all."""
        board = self._board
        if self._stop() is None and board is not None:
            for node in self._others:
                number = self._state(node).get("stop")
                if number is not None:
                    self._on_stop(number)
                    break
        number = self._stop()
        if number is not None and board is not None:
            board.post(stop=number)
        return number is not None

    def _over(self) -> Failure | None:
        """The failure that ends the job outside of an attempt, where there is one."""
        self._look()
        if not self._is_first:
            verdict = self._state(0).get("verdict")
            return records.failure(verdict["found"]) if verdict and not verdict["again"] else self._lost.get(0)
        gave_up = [self._report(n) for n in self._others if self._report(n) and self._report(n)["round"] is None]
        return self._verdict([*(records.failure(r["found"]) for r in gave_up), *self._lost.values()])

    def _raise_if_over(self) -> None:
        found = self._over()
        if found is not None:
            code = EXIT_JOB_FAILED if found.exit_code is None else found.exit_code
            raise LaunchError(found.what or "another node gave up", hint=found.hint, exit_code=code)

    def _report(self, node: int) -> Any:
        return self._state(node).get("report")

    def _closing(self, node: int) -> Any:
        """A node's report of this round, or that it gives up; None before it has either."""
        report = self._report(node)
        return report if report and report["round"] in (self._round, None) else None

    # -- an attempt ---------------------------------------------------------------------------------------------------

    def join(self, attempt: int, found: Failure | None) -> Meeting | Failure | None:
        assert self._board is not None or self._is_stopping()
        if self._is_stopping():
            return None
        if found is not None:
            self.give_up(found)
            return found
        return self._call(attempt) if self._is_first else self._follow(attempt)

    def _call(self, attempt: int) -> Meeting | Failure | None:
        """The first node's join."""
        assert self._board is not None
        self._round += 1
        # The last verdict stays: the others may not have read it yet, and it says which round it is of.
        self._board.post(round=self._round, phase="joining", trouble="")
        deadline = time.monotonic() + self.timeout_s
        while not self._is_stopping():
            over = self._over()
            if over is not None:
                self.give_up(over)
                return over
            states = [self._state(n) for n in self._others]
            if all(s.get("ready") == self._round for s in states):
                self._refuse_others(self._board.met)  # one that came in a lost one's place
                for node in self._others:
                    self._refuse_different(node, {"prepared": self._prepared}, self._state(node))
                return self._meeting(max(attempt, *(s["attempt"] for s in states)))
            if len(self._board.met) < len(self._others) and time.monotonic() > deadline:
                raise self._absent()
            time.sleep(TICK_S / 2)
        return None

    def _meeting(self, attempt: int) -> Meeting:
        """Open the ranks' store, and tell the others where it is."""
        assert self._board is not None
        base = self._agreed_block()
        met = self._board.met[self._others[0]]
        # By the address that the others know this node by, where it is this node's own: a name may stand for a service
        # that forwards to it (MindCluster's MASTER_ADDR), and this node's own name for 127.0.1.1.
        interface = network.interface_of(met["first"]) if met["first"] else None
        way = network.route_to(met["address"]) if met["address"] else None
        address = met["first"] if interface else way.own if way else ""
        interface = interface or (way.interface if way else None)
        addresses = list(dict.fromkeys(filter(None, (address, way and way.own))))
        if any(self._board.met[n]["first"] != met["first"] for n in self._others):  # they come by different ways
            address = ""
        self._ranks_store = _ranks_store(address)
        port = self._ranks_store.port
        self._board.post(phase="running", port=port, attempt=attempt, addresses=addresses, hccl_base=base)
        return Meeting(self._reachable(addresses, port), port, attempt, interface, base)

    def _agreed_block(self) -> int | None:
        """The lowest block of HCCL's ports that is free on every node; None where there is nothing to choose.

        Raises:
            LaunchError: no block is.
        """
        if self._blocks is None:
            return None
        offers = {n: set(self._state(n)["blocks"]) for n in self._others} | {0: set(self._blocks.offer())}
        common = set.intersection(*offers.values())
        if not common:
            assert self._board is not None
            few = min(offers, key=lambda n: len(offers[n]))
            where = f"node {few} ({self._board.met[few]['host'] if few else self._introduction['host']})"
            raise LaunchError(
                f"no {network.PORTS_OF_A_BLOCK} ports for HCCL are free on all nodes; {where} offers {sorted(offers[few]) or 'none'}",
                hint="end other jobs on these hosts, or export HCCL_IF_BASE_PORT with one value on every node",
            )
        self._blocks.keep(min(common))
        return min(common)

    def _reachable(self, addresses: list[str], port: int) -> str:
        """Which of the first node's addresses leads to its ranks' store.

        Raises:
            LaunchError: none does.
        """
        deadline = time.monotonic() + REACH_S
        hosts = list(dict.fromkeys([self._address, *addresses]))  # the store may be served at one of them alone
        while not self._is_stopping():
            for host in hosts:
                if network.listener(host, port) is not None:
                    return host
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"node {self.node_rank} reaches {self.endpoint}, but not port {port} of the first node "
                    f"({' or '.join(hosts)})",
                    hint="let the nodes connect to each other at any port: firewall, security group or network policy",
                    exit_code=EXIT_JOB_FAILED,
                )
            time.sleep(TICK_S)
        return self._address

    def _follow(self, attempt: int) -> Meeting | Failure | None:
        """Another node's join."""
        assert self._board is not None
        while not self._is_stopping():
            over = self._over()
            if over is not None:
                return over
            first = self._state(0)
            number = first.get("round", 0)
            if first.get("phase") == "joining" and number > self._round:
                self._round = number
                blocks = self._blocks.offer() if self._blocks is not None else []
                self._board.post(
                    ready=number, attempt=attempt, trouble="", report=None, blocks=blocks, prepared=self._prepared
                )
            elif first.get("phase") == "running" and number == self._round:
                base, port = first["hccl_base"], first["port"]
                if self._blocks is not None and base is not None:
                    self._blocks.keep(base)
                host = self._reachable(first["addresses"], port)
                way = self._route if self._route and host == self._route.peer else network.route_to(host)
                return Meeting(host, port, first["attempt"], way.interface if way else None, base)
            time.sleep(TICK_S / 2)
        return None

    def pulse(self, trouble: str) -> str:
        if self._board is None:
            return trouble
        self._look()
        if self._is_first:
            states = [s for s in map(self._state, self._others) if self._round and s.get("ready") == self._round]
            said = {trouble, *(s.get("trouble", "") for s in states)}
            if self._lost or any(self._report(n) and self._report(n)["round"] is None for n in self._others):
                said.add(FAILED)
            heard = STALLED if STALLED in said else FAILED if FAILED in said else ""
            self._board.post(trouble=heard)
            return heard
        self._board.post(trouble=trouble)
        first = self._state(0)
        if self._lost or self._over() is not None:
            return FAILED
        return str(first.get("trouble", "")) if first.get("round") == self._round else ""

    def settle(self, found: Failure | None, again: Callable[[Failure], bool]) -> tuple[Failure | None, bool]:
        trouble = STALLED if found and found.type == records.STALLED else FAILED if found else ""
        return self._decide(found, trouble, again) if self._is_first else self._await_verdict(found, trouble)

    def _decide(
        self, own: Failure | None, trouble: str, again: Callable[[Failure], bool]
    ) -> tuple[Failure | None, bool]:
        assert self._board is not None
        while True:
            self.pulse(trouble)
            reports = {n: self._closing(n) for n in self._others if n not in self._lost}
            if all(r or self._state(n).get("left") for n, r in reports.items()):  # one may leave before it has ranks
                break
            time.sleep(TICK_S / 2)
        reported = (records.failure(r["found"]) for r in reports.values() if r)
        decided = self._verdict([own, *reported, *self._lost.values()])
        more = (
            decided is not None
            and not self._is_stopping()
            and all(r and r["round"] for r in reports.values())
            and again(decided)
        )
        self._board.post(verdict={"round": self._round, "found": _json(decided), "again": more})
        for node in list(self._lost) if more else []:
            self._board.forget(node)  # another launcher may come in its place
            self._same.discard(node)
            del self._lost[node]
        return decided, more

    def _verdict(self, found: list[Failure | None]) -> Failure | None:
        """The first failure, by the first node's monotonic clock."""
        assert self._board is not None
        offsets = {n: self._board.seen[n].offset_ns for n in self._others if n in self._board.seen}
        # A lost node's record was written here, by this clock.
        on_one_clock = [
            f.but(time_ns=f.time_ns + (0 if f.type == NODE_LOST else offsets.get(f.node_rank or 0, 0)))
            for f in found
            if f is not None
        ]
        return failure.first(on_one_clock)

    def _await_verdict(self, own: Failure | None, trouble: str) -> tuple[Failure | None, bool]:
        assert self._board is not None
        self._board.post(report={"round": self._round, "found": _json(own)})
        while True:
            self.pulse(trouble)
            verdict = self._state(0).get("verdict")
            if verdict and verdict["round"] in (self._round, None):
                return records.failure(verdict["found"]), bool(verdict["again"])
            if 0 in self._lost or self._state(0).get("left"):
                return failure.first([f for f in (own, self._lost.get(0)) if f is not None]), False
            time.sleep(TICK_S / 2)

    # -- the end --------------------------------------------------------------------------------------------------------

    def give_up(self, found: Failure) -> None:
        if self._board is None:
            return
        if self._is_first:
            self._board.post(trouble=FAILED, verdict={"round": None, "found": found.to_json(), "again": False})
        else:
            self._board.post(trouble=FAILED, report={"round": None, "found": found.to_json()})

    def close(self) -> None:
        board = self._board
        if board is None:
            return
        self._is_stopping()
        board.post(left=True)
        if self._is_first:
            # The store goes with this process. The others have to read the verdict before.
            while not all(n in self._lost or n not in board.seen or self._state(n).get("left") for n in self._others):
                self._look()
                time.sleep(TICK_S / 2)
        elif 0 not in self._lost or self._state(0).get("left"):
            board.flush(LEAVE_S)
        board.close()


def _json(failure: Failure | None) -> dict[str, Any] | None:
    return None if failure is None else failure.to_json()


@dataclass
class _Seen:
    """The latest that was read of a node."""

    state: Record = field(default_factory=dict)
    heard_s: float = 0.0
    """When it last changed, on this node's monotonic clock; every beat changes it."""
    offset_ns: int = 0
    """This node's monotonic clock less that node's: the least of what all its beats said, since each took a while."""


_NOTHING = _Seen()


class _Board:
    """Writes this node's key and reads the others', on a thread of its own."""

    def __init__(self, store: Any, own: int, others: range, introduction: Record, mark: seal.Seal) -> None:
        self._store, self._own, self._others, self._seal = store, own, others, mark
        self._session = introduction["session"]
        self._introduction = json.dumps(introduction)
        self.num_foreign = 0
        """Words in the store that no node of this job wrote."""
        self.met: dict[int, Record] = {}
        """Who came, by what each said of itself when it came."""
        self.seen: dict[int, _Seen] = {}
        self.taken_by = ""
        """The host of another launcher that came as this node before."""
        self.error = ""
        """Why the store can no longer be talked to."""
        self.is_given_up = False
        """This node said nothing for so long that another launcher may have its place."""
        self._state: Record = {}
        self._written: Record | None = None
        self._written_s = self._taken_s = 0.0
        self._raw: dict[int, bytes] = {}
        self._forgotten: list[int] = []
        self._lock, self._wake, self._is_closed = threading.Lock(), threading.Event(), False
        threading.Thread(target=self._run, name="nodes", daemon=True).start()

    @property
    def taken_for_s(self) -> float:
        return time.monotonic() - self._taken_s

    def post(self, **values: Any) -> None:
        """Say this of this node from now on."""
        with self._lock:
            changed = {**self._state, **values}
            if changed == self._state:
                return
            self._state = changed
        self._wake.set()

    def forget(self, node: int) -> None:
        """A node is gone; another may take its place."""
        self.met.pop(node, None)
        self.seen.pop(node, None)
        self._forgotten.append(node)

    def flush(self, timeout_s: float) -> None:
        """Wait until all that was posted is written."""
        deadline = time.monotonic() + timeout_s
        while self._written != self._state and not self.error and time.monotonic() < deadline:
            time.sleep(TICK_S / 5)

    def close(self) -> None:
        self._is_closed = True
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._is_closed and not self._introduced():
                time.sleep(BEAT_S)
            while not self._is_closed:
                self._exchange()
                self._wake.wait(TICK_S)
                self._wake.clear()
        except Exception as error:  # torch's DistError family, or a bug of ours: without this thread nobody is heard
            self.error = str(error) or type(error).__name__

    def _introduced(self) -> bool:
        key = f"came_{self._own}"
        own = self._seal.close(key, self._introduction)
        raw = self._store.compare_set(self._seal.name(key), "", own)
        if raw == own.encode():
            return True
        taken = self._seal.open(key, raw)
        other = seal.record(taken, host=str)
        if other is None:  # given up before, or no node's word
            self.num_foreign += taken != ""
            return bool(self._store.compare_set(self._seal.name(key), raw, own) == own.encode())
        if not self.taken_by:
            self.taken_by, self._taken_s = other["host"], time.monotonic()
        return False

    def _came(self, node: int) -> str | None:
        """How a node introduced itself, without waiting for it; '' where it was given up, None where there is no word of
        this job."""
        key, nothing = f"came_{node}", "\0"
        raw = self._store.compare_set(self._seal.name(key), nothing, nothing)
        if raw == nothing.encode():
            return None
        text = self._seal.open(key, raw)
        if text == "" or seal.record(text, host=str, session=str) is not None:
            return text
        self.num_foreign += 1
        return None

    def _exchange(self) -> None:
        while self._forgotten:
            node = self._forgotten.pop()
            self._store.delete_key(self._seal.name(f"node_{node}"))
            self._raw.pop(node, None)
            self._store.set(self._seal.name(f"came_{node}"), self._seal.close(f"came_{node}", ""))
            self.met.pop(node, None)  # read once more in the meantime
            self.seen.pop(node, None)
        with self._lock:
            state = self._state
        if self._written is not None and time.monotonic() - self._written_s > LOST_AFTER_S / 2:
            self.is_given_up = self._came(self._own) not in (self._introduction, None)
            if self.is_given_up:
                raise RuntimeError("given up")
        if state != self._written or time.monotonic() - self._written_s >= BEAT_S:
            self._write(state)
        # A key that was there stays until it is forgotten here, unless somebody else removes it; reading would wait for it.
        known = {n: self._seal.name(f"node_{n}") for n in self._others if n in self._raw}
        are_there = bool(known) and self._store.check(list(known.values()))
        raws = self._store.multi_get(list(known.values())) if are_there else []
        for node, raw in zip(known, raws, strict=are_there):
            self._took(node, raw)
        for node in self._others:
            name = self._seal.name(f"node_{node}")
            if not (are_there and node in known) and self._store.check([name]):
                self._took(node, self._store.get(name))

    def _write(self, state: Record) -> None:
        key = f"node_{self._own}"
        text = json.dumps({**state, "session": self._session, "beat_ns": time.monotonic_ns()})
        self._store.set(self._seal.name(key), self._seal.close(key, text))
        self._written, self._written_s = state, time.monotonic()
        is_met = state.get("phase") == "running" if self._own == 0 else "ready" in state
        if not is_met and self._came(self._own) is None:  # somebody wrote over it before the others read it
            key = f"came_{self._own}"
            self._store.set(self._seal.name(key), self._seal.close(key, self._introduction))
        if self._own:
            return
        self._store.set(seal.NONCE, self._seal.begun)  # again and again: for one that comes late, whoever wrote there
        # Where all words have names that nobody can guess, anything else is somebody else's.
        expected = 1 + 2 * (len(self._others) + 1)
        if self._seal.is_set and self._store.num_keys() > expected:
            self.num_foreign += 1

    def _took(self, node: int, raw: bytes) -> None:
        if raw == self._raw.get(node):
            return
        if node not in self.met:
            text = self._came(node)
            if text == "":  # of one that was given up, and goes on writing after a long sleep
                self._store.delete_key(self._seal.name(f"node_{node}"))
                self._raw.pop(node, None)
                return
            came = seal.record(text, host=str, session=str)
            if came is None or not {"address", "first"} <= came.keys():
                return
            self.met[node] = came
        self._raw[node] = raw
        state, before = seal.record(self._seal.open(f"node_{node}", raw), beat_ns=int), self.seen.get(node)
        if state is None or state.get("session") != self.met[node]["session"]:
            self.num_foreign += 1
            return
        if before is not None and state["beat_ns"] <= before.state["beat_ns"]:  # said before, and now by somebody else
            self.num_foreign += 1
            return
        offset = time.monotonic_ns() - state["beat_ns"]
        self.seen[node] = _Seen(state, time.monotonic(), min(offset, before.offset_ns) if before else offset)


def _bounded(call: Callable[[], Any], timeout_s: float) -> tuple[bool, Any]:
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
