"""A hostfile is read as deepspeed reads it, and what is wrong with it is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.clusters.ssh import hostfile
from launcher.errors import LaunchError

TWO = "# the big ones\n\nnode0 slots=8\nme@node1 slots=8  # second rack\n"


def named(text: str, include: str | None = None, exclude: str | None = None) -> list[tuple[str, int | None]]:
    return [(h.name, h.slots) for h in hostfile.select(hostfile.parse(text, "hosts.txt"), include, exclude)]


def test_hosts_keep_their_order_and_their_line():
    """Comments and empty lines are passed over; the user's name goes to ssh."""
    first, second = hostfile.parse(TWO, "hosts.txt")

    assert ("node0", 8, "hosts.txt:3") == (first.destination, first.slots, first.where)
    assert ("me@node1", "node1", "hosts.txt:4") == (second.destination, second.name, second.where)


def test_deepspeed_reads_the_same_hosts():
    """Its own parser, on the same text."""
    runner = pytest.importorskip("deepspeed.launcher.runner")
    theirs = runner._parse_hostfile(TWO.splitlines())

    assert list(theirs.items()) == [(h.destination, h.slots) for h in hostfile.parse(TWO, "hosts.txt")]


@pytest.mark.parametrize(
    "line",
    [
        "ssh://me@node0:2222 slots=2",
        "ssh://node0:2222",
        "10.0.0.1",
        "[fd00::1] slots=1",
        "n slots=2 max_slots=4",
        "n slots=2 max-slots=2",
    ],
)
def test_other_spellings_that_ssh_takes(line: str):
    """Ports are written as ssh writes them; without slots there is a rank a card."""
    (host,) = hostfile.parse(line, "f")

    assert line.split()[0] == host.destination


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-oProxyCommand=rm slots=2", "is not a host name"),
        ("a;reboot slots=2", "is not a host name"),
        ("$(reboot)", "is not a host name"),
        ("me@-x slots=2", "is not a host name"),
        ("node0:22 slots=2", "a port is written ssh://node0:22 or"),
        ("node0 slots=0", "slots=0 is not a number of ranks"),
        ("node0 slots=８", "slots=８ is not a number of ranks"),
        ("node0 slots=two", "slots=two is not a number of ranks"),
        ("node0 slot=2", "'slot=2' is not `slots=N`"),
        ("node0 8", "'8' is not `slots=N`"),
        ("node0 slots=8 max-slots=4", "slots=8 is more than the max-slots=4"),
        ("node0 max-slots=x", "max-slots=x is not a number of ranks"),
        ("[hosts]", "'[hosts]' is a heading, not a host name"),
        ("[npu hosts]", "'[npu hosts]' is a heading, not a host name"),
        ("[node0] slots=8", "'[node0]' is not a host name"),
        ("[all:vars]", "'[all:vars]' is a heading, not a host name"),
        ("node[4-1] slots=8", "'node[4-1]' is not a range of hosts"),
        ("node[1:4]", "a range is written node[1-4]"),
        ("node{1..4}.lan", "a range is written node[1-4].lan"),
        ("10.0.0.1-4", "a range is written 10.0.0.[1-4]"),
        ("node0:8", "ranks are written `node0 slots=8`"),
        ("node[1-", "'node[1-' is not a host name"),
        ("node0,node1 slots=8", "is not a host name"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str):
    """Nothing that ssh or a shell could take for something else gets past."""
    with pytest.raises(LaunchError) as caught:
        hostfile.parse(f"good slots=2\n{line}\n", "hosts.txt")

    assert caught.value.what.startswith("hosts.txt:2: ")
    assert said in caught.value.what


def test_a_range_is_as_many_hosts():
    """As Slurm writes them, each with the slots of the line, and the user before them."""
    listed = hostfile.parse("node[1-3] slots=8\nme@gpu[07-08,10].rack slots=8\n", "hosts.txt")

    assert ["node1", "node2", "node3", "gpu07.rack", "gpu08.rack", "gpu10.rack"] == [h.name for h in listed]
    assert "me@gpu10.rack" == listed[-1].destination
    assert {(8, "hosts.txt:1"), (8, "hosts.txt:2")} == {(h.slots, h.where) for h in listed}
    with pytest.raises(LaunchError, match=r"hosts.txt:2: node2 stands in line 1 already"):
        hostfile.parse("node[1-3]\nnode2\n", "hosts.txt")


def test_a_byte_order_mark_is_no_letter_of_a_name(tmp_path: Path):
    path = tmp_path / "hosts"
    path.write_bytes("\ufeffnode0 slots=2\r\nnode1 slots=2\r\n".encode())

    assert ["node0", "node1"] == [h.name for h in hostfile.load(path)]


def test_a_host_that_stands_twice_is_refused():
    """Two agents would share its cards."""
    with pytest.raises(LaunchError, match=r"hosts.txt:3: node0 stands in line 1 already"):
        hostfile.parse("node0 slots=2\nnode1 slots=2\nme@node0 slots=2\n", "hosts.txt")


def test_all_wrong_lines_come_at_once():
    with pytest.raises(LaunchError) as caught:
        hostfile.parse("a slots=x\nb slots=2\nb slots=2\n", "f")

    assert 2 == len(caught.value.what.splitlines())


def test_an_empty_or_absent_file_names_no_host(tmp_path: Path):
    with pytest.raises(LaunchError, match="names no host"):
        hostfile.parse("# nobody\n", "f")
    with pytest.raises(LaunchError, match="No such file"):
        hostfile.load(tmp_path / "none.txt")


def test_include_and_exclude_choose_hosts_and_cards():
    """In deepspeed's words, and in the file's order."""
    assert [("node1", 8)] == named(TWO, include="node1")
    assert [("node0", 2), ("node1", 2)] == named(TWO, include="node1:0,1@node0:6,7")
    assert [("node0", 8)] == named(TWO, exclude="node1")
    assert [("node0", 6), ("node1", 8)] == named(TWO, exclude="node0:0,1")


@pytest.mark.parametrize(
    ("include", "exclude", "said"),
    [
        ("node9", None, "'node9' is not in the hostfile"),
        ("node0:8", None, "hosts.txt:3 has slots=8"),
        ("node0:x", None, "is not a list of cards"),
        (None, "node0@node1", "leaves no host"),
        ("node0", "node1", "cannot go together"),
    ],
)
def test_a_wrong_choice_is_named(include: str | None, exclude: str | None, said: str):
    with pytest.raises(LaunchError, match=said.replace("[", r"\[")):
        named(TWO, include, exclude)


def test_every_host_runs_equally_many_ranks():
    """Unequal slots are refused with the line; --nproc takes fewer."""
    unequal = hostfile.parse("a slots=8\nb slots=4\n", "hosts.txt")

    with pytest.raises(LaunchError, match=r"hosts.txt:2: b has slots=4, a has slots=8"):
        hostfile.ranks_per_host(unequal, None)
    with pytest.raises(LaunchError, match=r"less than --nproc 6"):
        hostfile.ranks_per_host(unequal, 6)
    assert 4 == hostfile.ranks_per_host(unequal, 4)
    assert 8 == hostfile.ranks_per_host(hostfile.parse(TWO, "f"), None)
    assert hostfile.ranks_per_host(hostfile.parse("a\nb\n", "f"), None) is None
