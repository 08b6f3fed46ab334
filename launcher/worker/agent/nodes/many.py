"""How the agents of a job's nodes meet and keep in touch. One node needs none of it, and gets the same interface.

The first node's agent serves one of torch's TCPStores at the endpoint. Every node writes what there is to know of it
under a key of its own; the others read the first node's, and the first node reads all and decides. Torch elastic's
c10d rendezvous stands in the way: it hands the second attempt the first one's store, keys and all; it numbers nodes by
their addresses; and its calls, as all calls of a TCPStore, never return on a link that was cut. So the store is used
alone, on a thread of its own, and what counts is how long ago a node was last heard of.

Whoever reaches the store can write to it. What no node of this job wrote is passed over (see `seal`), with one note.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from launcher import network, scrub
from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.machine.nodes import split_endpoint
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.rundir import records
from launcher.rundir.records import NODE_LOST, Failure
from launcher.worker.agent import collectives, consistency
from launcher.worker.agent.nodes import reasons, seal
from launcher.worker.agent.nodes.board import LOST_AFTER_S, NOTHING, TICK_S, NodeBoard
from launcher.worker.agent.nodes.link import FAILED, STALLED, Meeting, Record, port_blocks
from launcher.worker.agent.nodes.store import client, ranks_store, serve
from launcher.worker.runtime import failure

LEAVE_S = 5.0
"""How long an agent's last message may take to reach the first node."""


REACH_S = 20.0
"""How long a node tries to reach the store of the first node's ranks, at any of its addresses."""


class ManyNodes:
    """Several nodes. What a node says of itself, under its key:

    - `ready`: the round it would take part in; a round is one attempt, numbered by the first node
    - `trouble`: what is wrong in this round; `stop`: the signal that asked it to stop
    - `report`: how the round ended here, or, with no round, that this node gives up
    - and the first node: `round`, `phase`, `port`, `attempt` and `verdict`, which all follow
    """

    def __init__(
        self,
        plan: Plan,
        node_rank: int,
        *,
        stop: Callable[[], int | None],
        on_stop: Callable[[int], None],
        secret: str = "",
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
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
        self._board: NodeBoard | None = None
        self._ranks_store: Any = None
        self._blocks = port_blocks(plan, self.endpoint)
        self._route = network.route_to(self.host)
        self._address = self._route.peer if self._route else self.host
        """The first node's, as this node found it: a number, since no name server is asked once the nodes meet."""
        self._prepared: Record = {}
        self._same: set[int] = set()
        self._introduction: Record = scrub.value(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "session": secrets.token_hex(8),
                "address": self._route and self._route.own,
                "first": self._route and self._route.peer,
                **consistency.introduction(plan),
            }
        )

    # -- meeting ----------------------------------------------------------------------------------------------------

    def meet(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        store = self._serve() if self._is_first else self._connect(deadline)
        if store is None:
            return
        if not self._is_first and not self._knows_the_job(store, deadline):
            return
        self._board = NodeBoard(store, self.node_rank, self._others, self._introduction, self._seal)
        while not self._is_stopping():
            self._refuse_others(self._board.met)
            if len(self._board.met) == len(self._others):
                return
            self._raise_if_over()
            if self._board.taken_by and self._board.taken_for_s > LOST_AFTER_S + LEAVE_S:
                raise reasons.taken(self.plan, self.node_rank, self._board.taken_by)
            if time.monotonic() > deadline:
                raise self._absent() if self._is_first else reasons.unreachable(self.plan, self.node_rank)
            time.sleep(TICK_S / 2)

    def _knows_the_job(self, store: Any, deadline: float) -> bool:
        """Hear from the first node which job this is; False where this node is asked to stop before.

        Raises:
            LaunchError: the first node's secret is another.
        """
        until = min(deadline, time.monotonic() + LOST_AFTER_S)  # what somebody else wrote there is soon replaced
        while not self._is_stopping():
            if store.check([seal.NONCE]) and self._seal.join(store.get(seal.NONCE)):
                return True
            if time.monotonic() > until:
                raise reasons.other_secret(self.plan, self.node_rank)
            time.sleep(TICK_S)
        return False

    def _absent(self) -> LaunchError:
        assert self._board is not None
        return reasons.absent(self.plan, [n for n in self._others if n not in self._board.met])

    def _serve(self) -> Any:
        network.open_many_files()
        if not self._seal.is_set:
            self._note(reasons.unchecked(self.plan))
        return serve(self.host, self.port, self._seal)

    def _connect(self, deadline: float) -> Any:
        """The first node's store; None where this node is asked to stop before it is up."""
        value: Any = None
        while not self._is_stopping():
            # The name first: it may lead elsewhere by now.
            address = network.listener(self.host, self.port) or network.listener(self._address, self.port)
            if address is not None:
                self._address = address
                done, value = client(address, self.port, deadline - time.monotonic())
                if done and not isinstance(value, Exception):
                    value.set_timeout(timedelta(seconds=2 * LOST_AFTER_S))  # silence is judged by the beats alone
                    return value
            if time.monotonic() > deadline:
                raise reasons.unreachable(self.plan, self.node_rank) from (
                    value if isinstance(value, Exception) else None
                )
            time.sleep(TICK_S)
        return None

    def _refuse_others(self, met: Mapping[int, Record]) -> None:
        """Raise LaunchError for a node that is not what this one is; each is looked at once."""
        for node in sorted(met.keys() - self._same):
            self._refuse_different(node, self._introduction, met[node])
            self._same.add(node)

    def _refuse_different(self, node: int, own: Record, other: Record) -> None:
        difference = consistency.difference(own, other)
        if difference is not None:
            assert self._board is not None
            raise reasons.different(self.node_rank, node, self._board.met[node]["host"], difference)

    def declare(self, prepared: Record) -> None:
        self._prepared = prepared

    # -- what is known of the others ----------------------------------------------------------------------------------

    def _state(self, node: int) -> Record:
        assert self._board is not None
        return self._board.seen.get(node, NOTHING).state

    def _look(self) -> None:
        """Hear who was asked to stop, and see who is lost."""
        self._is_stopping()
        board = self._board
        if board is None:
            return
        if board.num_foreign and not self._has_noted:
            self._has_noted = True
            self._note(
                Message(
                    "somebody else writes to {endpoint}, where the nodes of this job meet; it is passed over",
                    endpoint=self.endpoint,
                )
            )
        for node in self._others:
            seen = board.seen.get(node, NOTHING)
            if node in self._lost or (seen.state.get("left") and self._has_given_reason(node)):
                continue
            silent_s = time.monotonic() - seen.heard_s if seen is not NOTHING else 0.0
            if silent_s > LOST_AFTER_S or board.error or seen.state.get("left"):
                self._lost[node] = self._lost_record(node, silent_s)

    def _has_given_reason(self, node: int) -> bool:
        """Whether a node that left said how it ended: it was asked to stop, or has reported or decided this round."""
        state = self._state(node)
        verdict = state.get("verdict")
        return state.get("stop") is not None or bool(verdict and not verdict["again"]) or bool(self._closing(node))

    def _lost_record(self, node: int, silent_s: float) -> Failure:
        assert self._board is not None
        host = self._board.met.get(node, {}).get("host", "?")
        gone = (
            Message("its launcher at {endpoint} gave this node up, which had stood still", endpoint=self.endpoint)
            if self._board.is_given_up
            else Message("its launcher at {endpoint} is gone", endpoint=self.endpoint)
            if self._board.error
            else Message("its launcher ended and did not say how")
            if self._state(node).get("left")
            else Message("nothing heard of it for {silent_s:.0f} s", silent_s=silent_s)
        )
        return reasons.lost(node, host, gone, silent_s)

    def _is_stopping(self) -> bool:
        """Whether the job is asked to stop, on whichever node: it stops on all."""
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
        over = self._over()
        if over is not None:
            code = EXIT_JOB_FAILED if over.exit_code is None else over.exit_code
            raise LaunchError(over.what or Message("another node gave up"), hint=over.hint, exit_code=code)

    def _report(self, node: int) -> Any:
        return self._state(node).get("report")

    def _closing(self, node: int) -> Any:
        """A node's report of this round, or that it gives up; None before it has either."""
        report = self._report(node)
        return report if report and report["round"] in (self._round, None) else None

    # -- an attempt ---------------------------------------------------------------------------------------------------

    def join(self, attempt: int, own_failure: Failure | None) -> Meeting | Failure | None:
        assert self._board is not None or self._is_stopping()
        if self._is_stopping():
            return None
        if own_failure is not None:
            self.give_up(own_failure)
            return own_failure
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
        self._ranks_store = ranks_store(address)
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
            host = self._board.met[few]["host"] if few else self._introduction["host"]
            raise reasons.no_block(few, host, offers[few])
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
                raise reasons.closed_port(self.plan, self.node_rank, port, hosts)
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
            troubles = {trouble, *(s.get("trouble", "") for s in states)}
            if self._lost or any(self._report(n) and self._report(n)["round"] is None for n in self._others):
                troubles.add(FAILED)
            heard = STALLED if STALLED in troubles else FAILED if FAILED in troubles else ""
            self._board.post(trouble=heard)
            return heard
        self._board.post(trouble=trouble)
        first = self._state(0)
        if self._lost or self._over() is not None:
            return FAILED
        return str(first.get("trouble", "")) if first.get("round") == self._round else ""

    def settle(
        self, own_failure: Failure | None, again: Callable[[Failure], bool], recorded: Record
    ) -> tuple[Failure | None, bool]:
        trouble = STALLED if own_failure and own_failure.type == records.STALLED else FAILED if own_failure else ""
        return (
            self._decide(own_failure, trouble, again, recorded)
            if self._is_first
            else self._await_verdict(own_failure, trouble, recorded)
        )

    def _decide(
        self, own: Failure | None, trouble: str, again: Callable[[Failure], bool], recorded: Record
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
        decided = collectives.explained(decided, [recorded, *(r.get("recorded") or {} for r in reports.values() if r)])
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

    def _verdict(self, reported: list[Failure | None]) -> Failure | None:
        """The first failure, by the first node's monotonic clock."""
        assert self._board is not None
        offsets = {n: self._board.seen[n].offset_ns for n in self._others if n in self._board.seen}
        # A lost node's record was written here, by this clock.
        on_one_clock = [
            f.but(time_ns=f.time_ns + (0 if f.type == NODE_LOST else offsets.get(f.node_rank or 0, 0)))
            for f in reported
            if f is not None
        ]
        return failure.first(on_one_clock)

    def _await_verdict(self, own: Failure | None, trouble: str, recorded: Record) -> tuple[Failure | None, bool]:
        assert self._board is not None
        self._board.post(report={"round": self._round, "found": _json(own), "recorded": recorded})
        while True:
            self.pulse(trouble)
            verdict = self._state(0).get("verdict")
            if verdict and verdict["round"] in (self._round, None):
                return records.failure(verdict["found"]), bool(verdict["again"])
            if 0 in self._lost or self._state(0).get("left"):
                return failure.first([f for f in (own, self._lost.get(0)) if f is not None]), False
            time.sleep(TICK_S / 2)

    # -- the end --------------------------------------------------------------------------------------------------------

    def give_up(self, own_failure: Failure) -> None:
        if self._board is None:
            return
        if self._is_first:
            self._board.post(trouble=FAILED, verdict={"round": None, "found": own_failure.to_json(), "again": False})
        else:
            self._board.post(trouble=FAILED, report={"round": None, "found": own_failure.to_json()})

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
