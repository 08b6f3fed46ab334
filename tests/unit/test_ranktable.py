"""HCCL's rank table: rendered from what nodes have, and held to HCCL's rules whoever wrote it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.accelerators import detect
from launcher.accelerators.ascend import ranktable, ranktable_check
from launcher.accelerators.ascend.ranktable import Server, TableDevice
from launcher.errors import LaunchError
from launcher.machine.nodes import Nodes
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.render import env

Write = Callable[..., Path]
HCCN = "# of the installer\naddress_{0}=192.168.{1}.8\nnetmask_{0}=255.255.255.0\nnetdetect_{0}=192.168.{1}.1\n"


def two_servers(**more: Any) -> list[Server]:
    return [
        Server(f"node_{s}", tuple(TableDevice(d, f"192.168.{s}.{d + 1}", str(10 * s + d)) for d in (0, 1)), **more)
        for s in (0, 1)
    ]


def table(**more: Any) -> dict[str, Any]:
    return ranktable.table(two_servers(**more))


def test_ranks_follow_servers_and_physical_ids():
    """Every value is a string; the order of the addresses given does not matter."""
    hccn = "".join(HCCN.format(n, n) for n in (3, 1, 0, 2))
    (server,) = ranktable.servers_of("node_0", hccn)
    value = json.loads(ranktable.text([server, Server("node_1", (TableDevice(0, "10.0.0.1"),))]))

    assert ("completed", "1.0", "2") == (value["status"], value["version"], value["server_count"])
    assert [("0", "0"), ("1", "1"), ("2", "2"), ("3", "3")] == [
        (d["device_id"], d["rank_id"]) for d in value["server_list"][0]["device"]
    ]
    assert {"device_id": "0", "device_ip": "10.0.0.1", "rank_id": "4"} == value["server_list"][1]["device"][0]


def test_super_pods_make_it_version_1_2():
    """Each device with its id in the super pod, and each server in one super pod."""
    hosts = "node_0 host_ip=10.0.0.1 super_pod=0 0=192.168.1.6/0 1=192.168.1.7/1\nnode_1 super_pod=1 0=192.168.3.6/0 1=192.168.3.7/1 # the other\n"
    value = json.loads(ranktable.text(ranktable.servers_of("hosts", hosts)))

    assert "1.2" == value["version"]
    assert "10.0.0.1" == value["server_list"][0]["host_ip"]
    assert ["0", "1"] == [d["super_device_id"] for d in value["server_list"][1]["device"]]
    assert [
        {"super_pod_id": "0", "server_list": [{"server_id": "node_0"}]},
        {"super_pod_id": "1", "server_list": [{"server_id": "node_1"}]},
    ] == value["super_pod_list"]


def test_a_tables_own_ranks_stay(ascend_launch: Callable[..., Any], tmp_path: Path):
    """Its list need not be in their order; whatever else stands in it stays too. Joined with others, the change is said."""
    value = table()
    first, second = value["server_list"]
    for server, rank in ((first, 2), (second, 0)):
        for number, device in enumerate(server["device"]):
            device |= {"rank_id": str(rank + number), "device_port": "16667"}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(value))
    alone = ascend_launch("ranktable", path)
    one = tmp_path / "one.json"
    one.write_text(ranktable.text([Server("node_9", (TableDevice(0, "192.168.9.1"), TableDevice(1, "192.168.9.2")))]))
    joined = ascend_launch("ranktable", path, one)

    assert (0, value, "") == (alone.code, json.loads(alone.out), alone.err)
    assert 0 == joined.code, joined.err
    assert "one.json: ranks 0 to 1 become 4 to 5\n" == joined.err
    assert ["node_1", "node_0", "node_9"] == [s["server_id"] for s in json.loads(joined.out)["server_list"]]
    assert second["device"][0]["device_ip"] == json.loads(joined.out)["server_list"][0]["device"][0]["device_ip"]


def test_the_check_that_a_refusal_names_can_be_run(ascend_launch: Callable[..., Any], tmp_path: Path):
    """With the file's whole path; a byte order mark is no part of a table."""
    path = tmp_path / "table.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({**table(), "server_count": "9"}).encode())

    assert f"ranktable --check {path}`" in ascend_launch("ranktable", path).err
    assert "server_count" in ascend_launch("ranktable", "--check", path).out


def test_tables_of_single_nodes_are_joined_and_numbered_anew():
    """Each node makes its own, and one puts them together; also in super pods."""
    parts = [ranktable.text([server]) for server in two_servers(super_pod="7")]
    joined = [server for part in parts for server in ranktable.servers_of("part", part)]

    assert table(super_pod="7") == json.loads(ranktable.text(joined))


@pytest.mark.parametrize(
    ("hosts", "what"),
    [
        ("", "neither an hccn.conf"),
        ("node0\n", "hosts:1: node0 has no devices"),
        ("# c\nnode0 0=1.2.3.4 x=1\n", "hosts:2: 'x=1' is not DEVICE=IP"),
        ('{"status": "initializing"}', "status is 'initializing'"),
        ("{", "not JSON"),
    ],
)
def test_a_file_that_tells_nothing_is_refused_with_its_line(hosts: str, what: str):
    with pytest.raises(LaunchError) as caught:
        ranktable.servers_of("hosts", hosts)

    assert what in caught.value.what


@pytest.mark.parametrize(
    ("servers", "what"),
    [
        (
            [Server("a", (TableDevice(0, "1.2.3.4"),)), Server("b", (TableDevice(0),))],
            "device_ip is missing, which several servers need: device 0 of server b",
        ),
        ([Server("a", (TableDevice(0, "1.2.3.4"), TableDevice(1, "1.2.3.4")))], "device_ip 1.2.3.4 is given twice"),
        ([Server("a", (TableDevice(0, "eth0"),))], "'eth0' is not an address"),
        ([Server("a", (TableDevice(0, "1.2.3.4"), TableDevice(1, "fd00::1")))], "mixes IPv4 and IPv6"),
        ([Server("a", (TableDevice(0),), super_pod="0")], "super_device_id is missing on server a"),
        (
            [
                Server("a", (TableDevice(0, "1.2.3.4", "0"),), super_pod="0"),
                Server("b", (TableDevice(0, "1.2.3.5", "1"),)),
            ],
            "super_pod_id is missing",
        ),
    ],
)
def test_no_table_is_made_that_hccl_would_refuse(servers: list[Server], what: str):
    with pytest.raises(LaunchError) as caught:
        ranktable.text(servers)

    assert what in caught.value.what


def _set(path: str, new: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: Any) -> None:
        *parents, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
        for key in parents:
            value = value[key]
        if new is None:
            del value[last]
        else:
            value[last] = new

    return change


PODS = "super_pod_list/0/server_list"
WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "status": (_set("status", "initializing"), "not 'completed'"),
    "version": (_set("version", "9"), "not known"),
    "count": (_set("server_count", "3"), "server_count is '3'"),
    "a number": (_set("server_list/0/device/1/rank_id", 1), "server_list[0].device[1].rank_id=1"),
    "no servers": (_set("server_list", []), "empty or missing"),
    "no devices": (_set("server_list/1/device", []), "server_list[1] has no list of devices"),
    "no rank": (_set("server_list/1/device/0/rank_id", None), "server_list[1].device[0].rank_id is None"),
    "one server twice": (_set("server_list/1/server_id", "node_0"), "not unique: node_0"),
    "a long name": (_set("server_list/1/server_id", "n" * 65), "longer than 64"),
    "a device twice": (_set("server_list/1/device/1/device_id", "0"), "device_id 0 twice"),
    "a gap": (_set("server_list/1/device/1/rank_id", "4"), "0 to 3, each once"),
    "a rank twice": (_set("server_list/1/device/1/rank_id", "2"), "0 to 3, each once"),
    "crossed order": (_set("server_list/1/device/0/device_id", "5"), "do not follow its device ids"),
    "a port": (_set("server_list/1/device/0/device_port", "70000"), "'70000' is not a port"),
    "a link address": (_set("server_list/1/device/0/device_ip", "192.168.0.1"), "given twice"),
    "no super pods": (_set("super_pod_list", None), "super_pod_list is missing"),
    "outside of super pods": (_set(f"{PODS}/1/server_id", "node_9"), "node_1 is in only one"),
    "a super device twice": (_set("server_list/1/device/0/super_device_id", "0"), "super_device_id 0 is given twice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_table_is_held_to_hccls_rules(name: str):
    """Each mistake is named with its place or value."""
    change, what = WRONG[name]
    value = copy.deepcopy(table(super_pod="0"))
    assert [] == ranktable_check.check(json.dumps(value))
    change(value)

    assert [p for p in ranktable_check.check(json.dumps(value)) if what in p], ranktable_check.check(json.dumps(value))


def test_crossed_ranks_are_refused():
    """Servers with ranks 0, 3 and 1, 2."""
    value = table()
    for server, ranks in zip(value["server_list"], (("0", "3"), ("1", "2")), strict=True):
        for device, rank in zip(server["device"], ranks, strict=True):
            device["rank_id"] = rank

    assert "the ranks of server node_0 are not contiguous: [0, 3]" in ranktable_check.check(json.dumps(value))


def test_a_table_is_for_a_number_of_ranks():
    """A job of eight with the table of another job of four never starts."""
    assert ["it has 4 ranks, and the job has 8"] == ranktable_check.check(json.dumps(table()), 8)
    assert [] == ranktable_check.check(json.dumps(table()), 4)


def test_platforms_own_tables_pass():
    """MindCluster's hccl.json has fields of its own; Huawei's sample has an empty address on a single server."""
    device = {"device_id": "0", "device_ip": "", "rank_id": "0"}
    server = {
        "server_id": "0",
        "host_nic_ip": "reserve",
        "hardware_type": "800I-A2-32G",
        "container_ip": "10.0.0.2",
        "device": [device],
    }
    value = {"status": "completed", "version": "1.0", "server_count": "1", "server_list": [server]}

    assert [] == ranktable_check.check(json.dumps(value))
    assert [
        "it is not JSON: Expecting property name enclosed in double quotes: line 2 column 1 (char 2); comments are not allowed"
    ] == (ranktable_check.check('{\n// the rank table\n"status": "completed"}'))


def test_an_inherited_table_is_unset_unless_asked_for(recipe: Write, tmp_path: Path):
    """The user's other variables stay as they are."""
    made = decide.make(load.load(recipe(), (), {}), detect.assumed(8, Nodes()), plan.Options())
    asked = made.model_copy(update={"rank_table": "/mine.json"})
    user = {"RANK_TABLE_FILE": "/old.json"}

    assert ["RANK_TABLE_FILE"] == [row.name for row in env.removed(made, user)]
    assert "RANK_TABLE_FILE" not in {row.name for row in env.variables(made, tmp_path, user)}
    assert {"RANK_TABLE_FILE": "/mine.json"} == {
        r.name: r.value for r in env.variables(asked, tmp_path, user) if "TABLE" in r.name
    }
    assert () == env.removed(made.model_copy(update={"device": "cpu"}), user)


def test_the_command_joins_files_and_checks_them(ascend_launch: Any, awkward_dir: Path):
    """In any folder."""
    for n in (0, 1):
        (awkward_dir / f"hccn{n}.conf").write_text(HCCN.format(0, n) + HCCN.format(1, 10 + n))
    out = awkward_dir / "table.json"
    made = ascend_launch("ranktable", f"n0={awkward_dir}/hccn0.conf", f"n1={awkward_dir}/hccn1.conf", "--out", out)
    good, short = (ascend_launch("ranktable", "--check", out, "--ranks", count) for count in ("4", "8"))

    assert (0, 0, 2) == (made.code, good.code, short.code), made.err
    assert ["n0", "n1"] == [server["server_id"] for server in json.loads(out.read_text())["server_list"]]
    assert "it has 4 ranks, and the job has 8" in short.out


def test_the_command_asks_this_node(ascend_launch: Any, tmp_path: Path):
    """Physical ids and super pod ids from npu-smi, addresses from hccn_tool where no hccn.conf can be read."""
    tools = tmp_path / "bin"
    tools.mkdir()
    shutil.copy(Path(__file__).parent / "fixtures" / "npu_smi" / "a2-three-cards.txt", tmp_path / "smi.txt")
    (tools / "npu-smi").write_text(
        f'#!/bin/sh\ncase "$*" in *spod-info*) echo "SDID : 4$5"; echo "Super Pod ID : 3";; "info") cat {tmp_path}/smi.txt;; *) exit 1;; esac\n'
    )
    (tools / "hccn_tool").write_text('#!/bin/sh\necho "ipaddr:192.168.9.$2"\necho "netmask:255.255.255.0"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    ran = ascend_launch("ranktable", "--super-pod", "3", PATH=f"{tools}:/usr/bin:/bin")

    assert 0 == ran.code, ran.err
    value = json.loads(ran.out)
    assert ("1.2", "3") == (value["version"], value["super_pod_list"][0]["super_pod_id"])
    assert [] == ranktable_check.check(ran.out)
    assert all(d["device_ip"] == f"192.168.9.{d['device_id']}" for d in value["server_list"][0]["device"])
