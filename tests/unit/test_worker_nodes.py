"""What two nodes agree on when they meet, over a real store; the ranks it is for need not exist."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher import plan, spec
from launcher.cluster import detect, network
from launcher.cluster.model import Cluster
from launcher.cluster.nodes import Nodes
from launcher.errors import LaunchError
from launcher.rundir import RunDir
from launcher.worker.agent import Agent
from launcher.worker.nodes import ManyNodes, Meeting, OneNode

Write = Callable[..., Path]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def two_nodes(path: Path, *, npu: bool = True) -> plan.Plan:
    nodes = Nodes(2, 0, f"127.0.0.1:{free_port()}")
    cluster = detect.assumed(2, nodes) if npu else Cluster("cpu", (), 2, 0, nodes.endpoint)
    supervision = plan.Supervision(join_timeout_s=20)
    return plan.make(
        spec.load(path, ("parallel.global_batch_size=4",), {}), cluster, plan.Options(nproc=2, supervision=supervision)
    )


class Met:
    """Both nodes' meetings of one attempt, or what each raised."""

    def __init__(self, made: plan.Plan, prepared: tuple[Any, Any] = ({}, {})) -> None:
        self.links = [ManyNodes(made, n, stop=lambda: None, on_stop=lambda number: None) for n in (0, 1)]
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
            link.give_up(
                {"what": error.what, "exit_code": error.exit_code, "node_rank": node, "weight": 0, "time_ns": 0}
            )

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
    lowest = network.Blocks("probe")
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
    monkeypatch.setattr(network, "BLOCKS", (network.BLOCKS[-1],))
    with socket.socket() as taken:
        taken.bind(("", network.BLOCKS[-1]))
        first, _ = meet(two_nodes(recipe()))

    assert "no 32 ports for HCCL are free on all nodes" in first.what
    assert "offers none" in first.what


def test_what_was_prepared_must_be_the_same(recipe: Write, meet: Any):
    """Found out before a rank starts; the second node hears of it from the first."""
    digests = {"train data": "a1", "tokenizer": "b2"}
    first, second = meet(two_nodes(recipe()), (digests, digests | {"tokenizer": "c3"}))

    assert "prepared something else than node 0: tokenizer is 'c3' there and 'b2' here" in first.what
    assert first.what == second["what"]


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
    agent = Agent(RunDir(tmp_path), two_nodes(recipe()), 0)

    assert expected == agent._network_env(Meeting("n0", 1, 0, "eth1", 61000))


def test_cpu_ranks_are_told_nothing_of_hccl(recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    agent = Agent(RunDir(tmp_path), two_nodes(recipe(), npu=False), 0)

    assert {"GLOO_SOCKET_IFNAME": "eth1"} == agent._network_env(Meeting("n0", 1, 0, "eth1", None))


def test_two_jobs_on_one_node_get_different_ports(recipe: Write):
    """Of one node each, no other node to agree with."""
    made = plan.make(spec.load(recipe(), (), {}), detect.assumed(2, Nodes()), plan.Options(nproc=2))
    links = [OneNode(made, f"run {n}") for n in (0, 1)]
    bases = [meeting.hccl_base for link in links if isinstance(meeting := link.join(0, None), Meeting)]
    for link in links:
        assert link._blocks is not None
        link._blocks.close()
        link.close()

    assert 2 == len(set(bases))


# -- a node ends without a word ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [0, 1])
def test_a_node_that_leaves_without_a_word_is_lost(recipe: Write, gone: int):
    """A bug, or a disk: its launcher ends in order and has reported nothing, and the other must not wait for ever."""
    met = Met(two_nodes(recipe(), npu=False))
    assert all(isinstance(found, Meeting) for found in met.got)
    leaving = threading.Thread(target=met.links[gone].close, daemon=True)
    leaving.start()
    settled: list[Any] = []
    other = threading.Thread(
        target=lambda: settled.append(met.links[1 - gone].settle(None, lambda found: False)), daemon=True
    )
    other.start()
    other.join(20)
    met.links[1 - gone].close()
    leaving.join(20)

    ((found, again),) = settled
    assert ("NodeLost", gone, False) == (found["type"], found["node_rank"], again)
    assert "did not say how" in found["what"]
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
