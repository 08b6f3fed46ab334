"""The way to another node, and blocks of ports that no two jobs of a host share."""

from __future__ import annotations

import itertools
import socket
import threading
from typing import Any

import pytest

from launcher import network
from launcher.accelerators.ascend.ports import BLOCKS, OFFERED, PORTS_OF_A_BLOCK, Blocks

LOW = BLOCKS[0]


@pytest.fixture
def blocks() -> Any:
    made: list[Blocks] = []

    def make(job: str) -> Blocks:
        made.append(Blocks(job))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_two_jobs_of_a_host_never_offer_the_same_block(blocks: Any):
    """Even at the same moment: the name is held from the offer on."""
    found: list[list[int]] = []
    jobs = [blocks(f"job {n}") for n in range(6)]
    threads = [threading.Thread(target=lambda one=one: found.append(one.offer())) for one in jobs]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    bases = [base for offer in found for base in offer]
    assert [OFFERED] * 6 == [len(offer) for offer in found]
    assert len(bases) == len(set(bases))


def test_agents_of_one_job_on_one_host_offer_the_same(blocks: Any):
    """Two nodes of a job may be on one machine, and must have a block in common."""
    assert blocks("job").offer() == blocks("job").offer()


def test_what_is_let_go_is_free_again(blocks: Any):
    """One block stays with its job."""
    first = blocks("a")
    offered = first.offer()
    first.keep(offered[1])
    second = blocks("b").offer(len(offered) - 1)

    assert offered[1] not in second
    assert offered[0] in second


@pytest.mark.parametrize("where", ["", "127.0.0.1"])
def test_a_block_with_a_taken_port_is_not_offered(blocks: Any, where: str):
    """Bound is enough: HCCL could not bind it, whether anybody listens or not."""
    base = blocks("probe").offer(1)[0]
    with socket.socket() as taken:
        taken.bind((where, base + 31))

        assert base not in blocks("other").offer()


def test_blocks_are_legal_and_do_not_overlap():
    """HCCL_IF_BASE_PORT is 1024 to 65520, and 32 ports follow from there."""
    assert 60000 == LOW
    assert all(1024 <= base <= 65520 and base + 31 <= 65535 for base in BLOCKS)
    assert all(b - a >= PORTS_OF_A_BLOCK for a, b in itertools.pairwise(BLOCKS))


def test_the_way_to_oneself_is_the_interface_that_owns_the_address():
    """On the first node the endpoint is its own address."""
    way = network.route_to("127.0.0.1")

    assert way is not None
    assert ("127.0.0.1", "127.0.0.1", "lo") == (way.own, way.peer, way.interface)


def test_a_name_that_nobody_has_leads_nowhere():
    """And that is no error here: the store's own connection says it."""
    assert network.route_to("no-such-host.invalid") is None
