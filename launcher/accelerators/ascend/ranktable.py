"""HCCL's rank table: which device of which server is which rank. Rendered on request, and checked, whoever wrote it.

torch_npu needs none: its ranks find each other through rank 0. Versions 1.0 (servers) and 1.2 (servers in super pods), by
hicann/hccl docs/zh/user_guide/cluster_info_config; 2.0 (Ascend 950) is recognised and not checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.accelerators.ascend.ranktable_check import loaded, problems
from launcher.errors import LaunchError
from launcher.messages import Message

_ADDRESS = re.compile(r"^\s*address_(\d+)\s*=\s*(\S+)\s*$", re.MULTILINE | re.ASCII)
_DEVICE = re.compile(r"^(\d+)=([^/]*)(?:/(\d+))?$", re.ASCII)


@dataclass(frozen=True)
class TableDevice:
    """One die."""

    device_id: int
    """Physical: the N of /dev/davinciN."""
    ip: str = ""
    super_device_id: str = ""
    """SDID, in a super pod."""


@dataclass(frozen=True)
class Server:
    server_id: str
    devices: tuple[TableDevice, ...]
    host_ip: str = ""
    super_pod: str = ""


def text(servers: Sequence[Server]) -> str:
    """The rank table of these servers: ranks from 0, server by server, in the order of the devices' physical ids.

    Raises:
        LaunchError: what was given would make a table that HCCL refuses.
    """
    value = table(servers)
    mistakes = problems(value)
    if mistakes:
        raise LaunchError(
            "no rank table can be made of this: {actual}",
            hint="correct the addresses or ids given",
            actual="; ".join(mistakes[:4]),
        )
    return json.dumps(value, indent=2) + "\n"


def table(servers: Sequence[Server]) -> dict[str, Any]:
    """As `text`, and not checked."""
    rank, listed = 0, []
    has_pods = any(server.super_pod for server in servers)
    for server in servers:
        devices = []
        for device in sorted(server.devices, key=lambda d: d.device_id):
            entry = {"device_id": str(device.device_id)}
            if has_pods:
                entry["super_device_id"] = device.super_device_id
            if device.ip:
                entry["device_ip"] = device.ip
            devices.append({**entry, "rank_id": str(rank)})
            rank += 1
        host = {"host_ip": server.host_ip} if server.host_ip else {}
        listed.append({"server_id": server.server_id, **host, "device": devices})
    value: dict[str, Any] = {
        "status": "completed",
        "version": "1.2" if has_pods else "1.0",
        "server_count": str(len(servers)),
        "server_list": listed,
    }
    if has_pods:
        pods: dict[str, list[dict[str, str]]] = {}
        for server in servers:
            pods.setdefault(server.super_pod, []).append({"server_id": server.server_id})
        value["super_pod_list"] = [{"super_pod_id": pod, "server_list": of} for pod, of in pods.items()]
    return value


def addresses(hccn_conf: str) -> dict[int, str]:
    """`address_N=IP` lines of /etc/hccn.conf: physical id → address."""
    return {int(number): ip for number, ip in _ADDRESS.findall(hccn_conf)}


def servers_of(name: str, content: str) -> list[Server]:
    """The servers that a file describes: an hccn.conf (one server, called `name`), a rank table, or a hosts file.

    Raises:
        LaunchError: it is none of them, with the line.
    """
    if is_table(content):
        return _of_table(name, content)
    if _ADDRESS.search(content):
        return [Server(name, tuple(TableDevice(n, ip) for n, ip in sorted(addresses(content).items())))]
    return list(_of_hosts(name, content))


def _of_hosts(name: str, content: str) -> Iterator[Server]:
    """Lines of `server_id [host_ip=IP] [super_pod=ID] DEVICE=IP[/SDID]...`, and comments."""
    is_empty = True
    for number, line in enumerate(content.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        is_empty = False
        named = {k: v for k, _, v in (w.partition("=") for w in words[1:]) if k in ("host_ip", "super_pod")}
        rest = [w for w in words[1:] if w.partition("=")[0] not in named]
        devices = [m for m in map(_DEVICE.match, rest) if m]
        if not devices or len(devices) < len(rest):
            bad = next((w for w in rest if not _DEVICE.match(w)), "")
            raise LaunchError(
                "{name}:{number}: {bad}",
                hint="as in `node0 host_ip=10.0.0.1 super_pod=0 0=192.168.1.8/0 1=192.168.1.9/1`",
                name=name,
                number=number,
                bad=Message("{bad!r} is not DEVICE=IP", bad=bad)
                if bad
                else Message("{word} has no devices", word=words[0]),
            )
        yield Server(
            words[0],
            tuple(TableDevice(int(m[1]), m[2], m[3] or "") for m in devices),
            named.get("host_ip", ""),
            named.get("super_pod", ""),
        )
    if is_empty:
        raise LaunchError(
            "{name}: neither an hccn.conf, a rank table nor a list of hosts", hint="see docs/clusters.md", name=name
        )


def is_table(content: str) -> bool:
    return content.lstrip().startswith("{")


def kept(name: str, content: str) -> str:
    """A rank table as it is: its ranks, and all that stands in it. Raises LaunchError where HCCL would refuse it."""
    return json.dumps(_checked(name, content), indent=2) + "\n"


def moved(content: str, first: int) -> str:
    """What joining a table makes of its ranks, where that is not what they were: `0 to 15 become 16 to 31`; else ''."""
    ranks = sorted(int(d["rank_id"]) for s in json.loads(content)["server_list"] for d in s["device"])
    return (
        ""
        if first == 0
        else Message(
            "{rank} to {ranks} become {first} to {num_ranks}",
            rank=ranks[0],
            ranks=ranks[-1],
            first=first,
            num_ranks=first + len(ranks) - 1,
        )
    )


def _checked(name: str, content: str) -> dict[str, Any]:
    value = loaded(content)
    mistakes = [value] if isinstance(value, str) else problems(value)
    if mistakes:
        raise LaunchError(
            "{name}: {actual}", hint="`ascend-launch ranktable --check {name}` says all", name=name, actual=mistakes[0]
        )
    assert isinstance(value, dict)
    return value


def _of_table(name: str, content: str) -> list[Server]:
    """Its servers in the order of their ranks, which is not always that of the list."""
    value = _checked(name, content)
    pods = {s["server_id"]: pod["super_pod_id"] for pod in value.get("super_pod_list", []) for s in pod["server_list"]}
    return [
        Server(
            server["server_id"],
            tuple(
                TableDevice(int(d["device_id"]), d.get("device_ip", ""), d.get("super_device_id", ""))
                for d in server["device"]
            ),
            server.get("host_ip", ""),
            pods.get(server["server_id"], ""),
        )
        for server in sorted(value.get("server_list", []), key=lambda s: min(int(d["rank_id"]) for d in s["device"]))
    ]
