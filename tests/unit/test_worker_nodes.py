"""What two nodes agree on when they meet, over a real store; the ranks it is for need not exist."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from launcher.accelerators import detect
from launcher.accelerators.ascend import ports
from launcher.accelerators.ascend.ports import BLOCKS, Blocks
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.machine.nodes import Nodes
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.rundir.records import Failure
from launcher.worker.agent.nodes import board as nodes_board
from launcher.worker.agent.nodes.link import Meeting
from launcher.worker.agent.nodes.many import ManyNodes
from launcher.worker.agent.nodes.one import OneNode
from launcher.worker.agent.nodes.store import open_store
from launcher.worker.agent.rank_env import network_env

Write = Callable[..., Path]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def two_nodes(path: Path, *, npu: bool = True) -> plan.Plan:
    nodes = Nodes(2, 0, f"127.0.0.1:{free_port()}")
    cluster = detect.assumed(2, nodes) if npu else Cluster("cpu", (), 2, 0, nodes.endpoint)
    supervision = plan.Supervision(join_timeout_s=20)
    return decide.make(
        load.load(path, ("parallel.global_batch_size=4",), {}), cluster, plan.Options(nproc=2, supervision=supervision)
    )


class Met:
    """Both nodes' meetings of one attempt, or what each raised."""

    def __init__(
        self, made: plan.Plan, prepared: tuple[Any, Any] = ({}, {}), secrets: tuple[str, str] = ("", "")
    ) -> None:
        self.notes: list[str] = []
        self.links = [
            ManyNodes(
                made, n, stop=lambda: None, on_stop=lambda number: None, secret=secrets[n], note=self.notes.append
            )
            for n in (0, 1)
        ]
        self.got: list[Any] = [None, None]
        threads = [threading.Thread(target=self._meet, args=(n, prepared[n])) for n in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    def _meet(self, node: int, prepared: Any) -> None:
        link = self.links[node]
        try:
            link.meet()
            link.declare(prepared)
            self.got[node] = link.join(0, None)
        except LaunchError as error:
            self.got[node] = error
            link.give_up(Failure.of(what=error.what, exit_code=error.exit_code, node_rank=node, weight=0, time_ns=0))

    def close(self) -> None:
        threads = [threading.Thread(target=link.close) for link in self.links]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for link in self.links:
            if link._blocks is not None:
                link._blocks.close()


@pytest.fixture
def meet() -> Any:
    made: list[Met] = []

    def start(*args: Any, **kwargs: Any) -> list[Any]:
        made.append(Met(*args, **kwargs))
        return made[-1].got

    yield start
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def no_ports_of_the_users(monkeypatch: pytest.MonkeyPatch):
    for name in ("HCCL_IF_BASE_PORT", "HCCL_HOST_SOCKET_PORT_RANGE"):
        monkeypatch.delenv(name, raising=False)


def test_nodes_agree_on_ports_that_are_free(recipe: Write, meet: Any):
    """The lowest block of which no port is taken, the same on both."""
    lowest = Blocks("probe")
    expected = lowest.offer(2)
    lowest.close()
    with socket.socket() as taken:
        taken.bind(("", expected[0] + 3))
        first, second = meet(two_nodes(recipe()))

    assert [expected[1]] * 2 == [first.hccl_base, second.hccl_base]
    assert ["lo", "lo"] == [first.interface, second.interface]
    assert (first.host, first.port) == (second.host, second.port)


def test_another_job_on_these_hosts_gets_other_ports(recipe: Write, meet: Any):
    """As long as the first one lives."""
    first, other = meet(two_nodes(recipe())), meet(two_nodes(recipe()))

    assert first[0].hccl_base == first[1].hccl_base
    assert other[0].hccl_base == other[1].hccl_base
    assert first[0].hccl_base != other[0].hccl_base


def test_the_users_own_ports_stay(recipe: Write, meet: Any, monkeypatch: pytest.MonkeyPatch):
    """Nothing is agreed on where the user has chosen, and nothing without HCCL."""
    monkeypatch.setenv("HCCL_HOST_SOCKET_PORT_RANGE", "auto")
    assert [None, None] == [m.hccl_base for m in meet(two_nodes(recipe()))]
    monkeypatch.delenv("HCCL_HOST_SOCKET_PORT_RANGE")
    assert [None, None] == [m.hccl_base for m in meet(two_nodes(recipe(), npu=False))]


def test_no_common_ports_is_said_with_the_node_that_has_few(recipe: Write, meet: Any, monkeypatch: pytest.MonkeyPatch):
    """Here: with one block in the world, and that one taken."""
    monkeypatch.setattr(ports, "BLOCKS", (BLOCKS[-1],))
    with socket.socket() as taken:
        taken.bind(("", BLOCKS[-1]))
        first, _ = meet(two_nodes(recipe()))

    assert "no 32 ports for HCCL are free on all nodes" in first.what
    assert "offers none" in first.what


def test_what_was_prepared_must_be_the_same(recipe: Write, meet: Any):
    """Found out before a rank starts; the second node hears of it from the first."""
    digests = {"train data": "a1", "tokenizer": "b2"}
    first, second = meet(two_nodes(recipe()), (digests, digests | {"tokenizer": "c3"}))

    assert "prepared something else than node 0: tokenizer is 'c3' there and 'b2' here" in first.what
    assert first.what == second.what


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({}, {"GLOO_SOCKET_IFNAME": "eth1", "HCCL_SOCKET_IFNAME": "=eth1", "HCCL_IF_BASE_PORT": "61000"}),
        ({"HCCL_IF_IP": "10.0.0.1"}, {"GLOO_SOCKET_IFNAME": "eth1", "HCCL_IF_BASE_PORT": "61000"}),
        ({"HCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0"}, {"HCCL_IF_BASE_PORT": "61000"}),
    ],
)
def test_ranks_are_told_the_interface_and_the_ports(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: dict[str, str], expected: dict[str, str]
):
    """And what the user has set is never overridden."""
    for name in ("GLOO_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME", "HCCL_IF_IP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    assert expected == network_env(two_nodes(recipe()), Meeting("n0", 1, 0, "eth1", 61000))


def test_cpu_ranks_are_told_nothing_of_hccl(recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert {"GLOO_SOCKET_IFNAME": "eth1"} == network_env(
        two_nodes(recipe(), npu=False), Meeting("n0", 1, 0, "eth1", None)
    )


def test_two_jobs_on_one_node_get_different_ports(recipe: Write):
    """Of one node each, no other node to agree with."""
    made = decide.make(load.load(recipe(), (), {}), detect.assumed(2, Nodes()), plan.Options(nproc=2))
    links = [OneNode(made, f"run {n}") for n in (0, 1)]
    bases = [meeting.hccl_base for link in links if isinstance(meeting := link.join(0, None), Meeting)]
    for link in links:
        assert link._blocks is not None
        link._blocks.close()
        link.close()

    assert 2 == len(set(bases))


@pytest.mark.parametrize("gone", [0, 1])
def test_a_node_that_leaves_without_a_word_is_lost(recipe: Write, gone: int):
    """A bug, or a disk: its launcher ends in order and has reported nothing, and the other must not wait for ever."""
    met = Met(two_nodes(recipe(), npu=False))
    assert all(isinstance(found, Meeting) for found in met.got)
    leaving = threading.Thread(target=met.links[gone].close, daemon=True)
    leaving.start()
    settled: list[Any] = []
    other = threading.Thread(
        target=lambda: settled.append(met.links[1 - gone].settle(None, lambda found: False, {})), daemon=True
    )
    other.start()
    other.join(20)
    met.links[1 - gone].close()
    leaving.join(20)

    ((found, again),) = settled
    assert ("NodeLost", gone, False) == (found.type, found.node_rank, again)
    assert "did not say how" in found.what
    assert not leaving.is_alive()


def test_a_node_that_was_given_up_and_wakes_up_changes_nothing(recipe: Write):
    """It goes on writing under a name that may be another's by now; the first node listens to the one that came after."""
    made = two_nodes(recipe(), npu=False)
    met = Met(made)
    first, sleeper = met.links[0]._board, met.links[1]._board
    assert first is not None and sleeper is not None
    first.forget(1)
    time.sleep(2)
    was_heard, error = 1 in first.met, first.error
    sleeper._written_s -= 60  # it slept
    deadline = time.monotonic() + 20
    while not sleeper.error and time.monotonic() < deadline:
        time.sleep(0.1)
    successor = ManyNodes(made, 1, stop=lambda: None, on_stop=lambda number: None)
    successor.meet()
    while 1 not in first.met and time.monotonic() < deadline:
        time.sleep(0.1)
    heard = dict(first.met)
    for board in (sleeper, successor._board, first):
        assert board is not None
        board.close()

    assert (False, "") == (was_heard, error)
    assert sleeper.is_given_up
    assert 1 in heard


SECRETS = ("a" * 64, "a" * 64)


def stranger(link: ManyNodes) -> Any:
    """Whoever reaches the port where the nodes meet."""
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", link.port, is_master=False, wait_for_workers=False)


def wait_for(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("secrets", [SECRETS, ("", "")], ids=["sealed", "open"])
def test_a_strangers_rubbish_changes_nothing_and_is_noted_once(recipe: Write, secrets: tuple[str, str]):
    """Under every name that there is, and others."""
    met = Met(two_nodes(recipe(), npu=False), secrets=secrets)
    first, other = met.links
    assert first._board is not None and other._board is not None
    store = stranger(first)
    names = {"node_1", "node_0", "came_1", "came_0", "job", "else"} | {
        first._seal.name(f"{word}_{n}") for word in ("node", "came") for n in (0, 1)
    }
    beats = [first._board.seen[1].heard_s, other._board.seen[0].heard_s]
    for rubbish in (b"\xff\xfe", b"{", b"[]", b'{"report": {"round": null}}', b"null", b'"x"', b"1" * 5000):
        for name in names:
            store.set(name, rubbish)
        assert "" == first.pulse("") == other.pulse("")
        time.sleep(0.15)

    assert wait_for(lambda: first._board.seen[1].heard_s > beats[0] and other._board.seen[0].heard_s > beats[1])
    assert wait_for(lambda: first.pulse("") == "" and any("somebody else writes" in note for note in met.notes))
    assert "" == first.pulse("") == other.pulse("")
    assert ("", "") == (first._board.error, other._board.error)
    met.close()
    counts = Counter(note for note in met.notes if "somebody else writes" in note)
    assert 1 <= sum(counts.values()) <= 2  # each node says it once


def test_a_forged_failure_ends_no_job(recipe: Write):
    """Well-formed, of the right node and session, newer than all before, and even in words that the node said once."""
    met = Met(two_nodes(recipe(), npu=False), secrets=SECRETS)
    first = met.links[0]
    board = first._board
    assert board is not None
    store, name = stranger(first), first._seal.name("node_1")
    said = store.get(name)
    state = {
        **board.seen[1].state,
        "beat_ns": 1 << 62,
        "stop": 15,
        "trouble": "failed",
        "report": {"round": None, "found": {"what": "x"}},
    }
    forged = json.dumps(state)
    for word in (forged, f"{'0' * 64} {forged}", f"{said.decode().split()[0]} {forged}", said.decode()):
        before = board.num_foreign
        store.set(name, word)
        store.set("node_1", forged)
        assert wait_for(lambda before=before: board.num_foreign > before)
        assert "" == first.pulse("")

    assert (None, False, {}) == (first._over(), first._is_stopping(), first._lost)
    heard = board.seen[1].heard_s
    assert wait_for(lambda: board.seen[1].heard_s > heard)
    met.close()


def test_what_a_stranger_removes_is_written_again(recipe: Write):
    met = Met(two_nodes(recipe(), npu=False), secrets=SECRETS)
    first, other = met.links
    store = stranger(first)
    for name in ("node_0", "node_1", "came_0", "came_1"):
        store.delete_key(first._seal.name(name))
    boards = [link._board for link in met.links]
    heard = [boards[0].seen[1].heard_s, boards[1].seen[0].heard_s]

    assert wait_for(lambda: boards[0].seen[1].heard_s > heard[0] and boards[1].seen[0].heard_s > heard[1])
    assert "" == first.pulse("") == other.pulse("")
    met.close()


@pytest.mark.parametrize("secrets", [("a", "b"), ("a", ""), ("", "b")], ids=["other", "none", "only-one"])
def test_nodes_with_different_secrets_do_not_meet(
    recipe: Write, monkeypatch: pytest.MonkeyPatch, secrets: tuple[str, str]
):
    monkeypatch.setattr(nodes_board, "LOST_AFTER_S", 1.0)
    made = two_nodes(recipe(), npu=False)
    first = ManyNodes(made, 0, stop=lambda: None, on_stop=lambda number: None, secret=secrets[0])
    other = ManyNodes(made, 1, stop=lambda: None, on_stop=lambda number: None, secret=secrets[1])
    store = first._serve()

    with pytest.raises(LaunchError, match="do not have the same ASCEND_LAUNCH_SECRET"):
        other.meet()
    del store


def test_a_job_without_a_secret_says_so_once(recipe: Write):
    met = Met(two_nodes(recipe(), npu=False))
    met.close()

    assert 1 == sum("export one ASCEND_LAUNCH_SECRET on every node" in note for note in met.notes)


def listening(port: int) -> set[str]:
    """The addresses at which this process listens at that port."""
    found = psutil.Process().net_connections("tcp")
    return {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN and c.laddr.port == port}


def test_one_nodes_store_is_served_on_the_loopback_interface_alone(recipe: Write):
    link = OneNode(
        decide.make(load.load(recipe(), (), {}), Cluster("cpu", (), 2, 0, None), plan.Options(nproc=2)), "run"
    )
    meeting = link.join(0, None)
    assert isinstance(meeting, Meeting)

    assert {"127.0.0.1"} == listening(meeting.port)
    link.close()


def test_the_stores_of_several_nodes_are_served_where_these_meet(recipe: Write):
    """Here all are on this host; the ranks' own is at the address by which the others came."""
    met = Met(two_nodes(recipe(), npu=False), secrets=SECRETS)

    assert {"127.0.0.1"} == listening(met.links[0].port)
    assert {"127.0.0.1"} == listening(met.got[0].port)
    met.close()


@pytest.mark.parametrize("release", ["2.6.0+cpu", "2.7.1"])
def test_a_store_serves_an_open_socket_with_an_old_torch(monkeypatch: pytest.MonkeyPatch, release: str):
    """The libuv server of these takes none; the one that is then asked for works in every release."""
    monkeypatch.setattr(torch, "__version__", release)

    store = open_store("127.0.0.1", 0)

    assert not store.libuvBackend
    store.set("key", "value")
    assert b"value" == store.get("key")
