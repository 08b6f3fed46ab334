"""Slurm's lists of hosts, as `scontrol show hostnames` expands them."""

from __future__ import annotations

import pytest

from launcher.clusters.slurm import hostlist, variables
from launcher.errors import LaunchError

EXPANDED = {
    "n1": ["n1"],
    "n[001-004,7],gpu3": ["n001", "n002", "n003", "n004", "n7", "gpu3"],
    "n[9-11]": ["n9", "n10", "n11"],
    "n[099-101]": ["n099", "n100", "n101"],
    "r[1-2]c[1-2]": ["r1c1", "r1c2", "r2c1", "r2c2"],
    "n[1-2]-ib,login": ["n1-ib", "n2-ib", "login"],
    "n[1,3,5]": ["n1", "n3", "n5"],
    "node-1.cluster.example.com,node-[2-3].cluster.example.com": [
        "node-1.cluster.example.com",
        "node-2.cluster.example.com",
        "node-3.cluster.example.com",
    ],
}


@pytest.mark.parametrize("text", EXPANDED)
def test_a_list_is_expanded_in_order(text: str):
    """Padding stays, and the last bracket counts fastest."""
    assert EXPANDED[text] == hostlist.hosts(text)


@pytest.mark.parametrize("text", ["", "n[1-2", "n1-2]", "n[2-1]", "n[]", "n[a-b]", "n[[1]]", "a,,b", ","])
def test_what_is_no_list_is_refused(text: str):
    with pytest.raises(LaunchError, match="not a list of hosts"):
        hostlist.hosts(text)


def test_a_list_without_an_end_is_refused_and_its_first_host_is_known():
    """Ten digits in a bracket must not fill the memory."""
    with pytest.raises(LaunchError, match="more than 100,000"):
        hostlist.hosts("n[0-9999999999]")
    assert "n0" == next(hostlist.each_host("n[0-9999999999]"))


@pytest.mark.parametrize(
    ("text", "most"), [("1(x2)", 1), ("8(x1000)", 8), ("2,1", 2), ("1(x3),4,2(x2)", 4), ("16", 16)]
)
def test_the_most_tasks_of_a_node(text: str, most: int):
    """As in SLURM_STEP_TASKS_PER_NODE."""
    assert most == variables.most_tasks(text)
