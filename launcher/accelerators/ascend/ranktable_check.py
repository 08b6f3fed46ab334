"""What is wrong with a rank table."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from launcher.machine.nodes import is_number
from launcher.messages import Message

MOST_LETTERS = 64
"""Of a server_id."""


def check(content: str, num_ranks: int | None = None) -> list[str]:
    """What is wrong with a rank table, by HCCL's rules, and for a job of so many ranks; [] where nothing is."""
    value = loaded(content)
    if isinstance(value, str):
        return [value]
    mistakes = problems(value)
    count = (
        sum(len(s["device"]) for s in value.get("server_list", [])) if not mistakes and isinstance(value, dict) else 0
    )
    if num_ranks is not None and count and count != num_ranks:
        mistakes.append(Message("it has {count} ranks, and the job has {num_ranks}", count=count, num_ranks=num_ranks))
    return mistakes


def loaded(content: str) -> Any:
    """The JSON value, or a sentence on why it is none."""
    try:
        return json.loads(content)
    except RecursionError:
        return Message("it is not JSON: nested too deeply")
    except ValueError as error:
        comment = Message("; comments are not allowed") if re.search(r"^\s*//|,\s*//", content, re.MULTILINE) else ""
        return Message("it is not JSON: {error}{comment}", error=error, comment=comment)


def problems(value: Any) -> list[str]:
    """As `check`, of a JSON value."""
    if not isinstance(value, dict):
        return [Message("it is not a JSON object")]
    version = str(value.get("version"))
    out: list[str] = []
    if value.get("status") != "completed":
        out.append(Message("status is {status!r}, not 'completed'", status=value.get("status")))
    if version == "2.0":
        return out
    if version not in ("1.0", "1.2"):
        return [*out, Message("version {version!r} is not known", version=value.get("version"))]
    not_text = next(_not_text(value), "")
    if not_text:
        out.append(Message("every value must be a string: {not_text}", not_text=not_text))
    servers = value.get("server_list")
    if not isinstance(servers, list) or not servers:
        return [*out, Message("server_list is empty or missing")]
    shapeless = _shapeless(servers)
    if shapeless:
        return [*out, shapeless]
    if (version == "1.0" or "server_count" in value) and str(value.get("server_count")) != str(len(servers)):
        out.append(
            Message(
                "server_count is {server_count!r}, but server_list has {num_servers}",
                server_count=value.get("server_count"),
                num_servers=len(servers),
            )
        )
    out += _server_problems(servers)
    out += _rank_problems(servers)
    out += _address_problems(servers, is_needed=version == "1.0" and len(servers) > 1)
    if version == "1.2":
        out += _pod_problems(value.get("super_pod_list"), servers)
    return out


def _not_text(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _not_text(one, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _not_text(one, f"{path}[{index}]")
    elif not isinstance(value, str):
        yield f"{path}={value!r}"


def _shapeless(servers: list[Any]) -> str:
    for i, server in enumerate(servers):
        devices = server.get("device") if isinstance(server, dict) else None
        if not isinstance(devices, list) or not devices:
            return Message("server_list[{index}] has no list of devices", index=i)
        for j, device in enumerate(devices):
            if not isinstance(device, dict):
                return Message("server_list[{index}].device[{value}] is not an object", index=i, value=j)
            for key in ("device_id", "rank_id"):
                if not is_number(str(device.get(key, ""))):
                    return Message(
                        "server_list[{index}].device[{value}].{key} is {device!r}, not a number from 0",
                        index=i,
                        value=j,
                        key=key,
                        device=device.get(key),
                    )
    return ""


def _server_problems(servers: list[dict[str, Any]]) -> list[str]:
    out: list[str] = []
    ids = [str(server.get("server_id", "")) for server in servers]
    if not all(ids):
        out.append(Message("server_id is missing"))
    twice = _twice(ids)
    if twice:
        out.append(Message("server_id is not unique: {twice}", twice=twice))
    long = next((name for name in ids if len(name) > MOST_LETTERS), "")
    if long:
        out.append(
            Message(
                "server_id {long}... is longer than {most_letters} letters", long=long[:20], most_letters=MOST_LETTERS
            )
        )
    for name, server in zip(ids, servers, strict=True):
        twice = _twice([str(d["device_id"]) for d in server["device"]])
        if twice:
            out.append(Message("server {name} has device_id {twice} twice", name=name, twice=twice))
        for key in ("device_port", "backup_device_port", "host_port"):
            bad = [d[key] for d in server["device"] if key in d and not _is_port(d[key])]
            if bad:
                out.append(Message("server {name}: {key} {bad!r} is not a port", name=name, key=key, bad=bad[0]))
        twice = _twice([str(d["host_port"]) for d in server["device"] if "host_port" in d])
        if twice:
            out.append(Message("server {name} has host_port {twice} twice", name=name, twice=twice))
    return out


def _rank_problems(servers: list[dict[str, Any]]) -> list[str]:
    ranks = [[int(d["rank_id"]) for d in server["device"]] for server in servers]
    flat = sorted(rank for of in ranks for rank in of)
    out: list[str] = []
    if flat != list(range(len(flat))):
        out.append(Message("rank_id must be 0 to {num_flat}, each once", num_flat=len(flat) - 1))
    for server, of in zip(servers, ranks, strict=True):
        name = server.get("server_id")
        by_id = [rank for _, rank in sorted((int(d["device_id"]), int(d["rank_id"])) for d in server["device"])]
        if max(of) - min(of) + 1 != len(of):
            out.append(Message("the ranks of server {name} are not contiguous: {of}", name=name, of=sorted(of)))
        elif by_id != sorted(by_id):
            out.append(
                Message(
                    "the ranks of server {name} do not follow its device ids; its n-th rank takes its n-th device",
                    name=name,
                )
            )
    return out


def _address_problems(servers: list[dict[str, Any]], *, is_needed: bool) -> list[str]:
    out: list[str] = []
    given = [(s.get("server_id"), d["device_id"], str(d.get("device_ip") or "")) for s in servers for d in s["device"]]
    absent = next(
        (
            Message("device {device} of server {server}", device=device, server=server)
            for server, device, ip in given
            if not ip
        ),
        "",
    )
    if is_needed and absent:
        out.append(Message("device_ip is missing, which several servers need: {absent}", absent=absent))
    ips = [ip for _, _, ip in given if ip]
    wrong = next((ip for ip in ips if _family(ip) == 0), "")
    if wrong:
        out.append(Message("device_ip {wrong!r} is not an address", wrong=wrong))
    elif len({_family(ip) for ip in ips}) > 1:
        out.append(Message("device_ip mixes IPv4 and IPv6"))
    twice = _twice(ips)
    if twice:
        out.append(Message("device_ip {twice} is given twice", twice=twice))
    return out


def _pod_problems(pods: Any, servers: list[dict[str, Any]]) -> list[str]:
    if not isinstance(pods, list) or not pods:
        return [Message("super_pod_list is missing, which version 1.2 needs")]
    members: list[tuple[str, str]] = []
    for i, pod in enumerate(pods):
        of = pod.get("server_list") if isinstance(pod, dict) else None
        if not isinstance(of, list) or not of or not all(isinstance(s, dict) for s in of):
            return [Message("super_pod_list[{index}] has no list of servers", index=i)]
        members += [(str(s.get("server_id")), str(pod.get("super_pod_id", ""))) for s in of]
    out: list[str] = []
    if not all(pod for _, pod in members):
        out.append(Message("super_pod_id is missing"))
    ids = [str(server.get("server_id")) for server in servers]
    twice = _twice([name for name, _ in members])
    if twice:
        out.append(Message("server {twice} is in super_pod_list twice", twice=twice))
    for name in sorted(set(ids) ^ {name for name, _ in members}):
        out.append(Message("server {name} is in only one of server_list and super_pod_list", name=name))
    pod_of = dict(members)
    order = [pod_of.get(name, "") for name in ids]
    if len([pod for i, pod in enumerate(order) if i == 0 or pod != order[i - 1]]) != len(set(order)):
        out.append(Message("the servers of a super pod must stand together in server_list"))
    seen: list[str] = []
    for name, server in zip(ids, servers, strict=True):
        if any(not str(d.get("super_device_id", "")) for d in server["device"]):
            return [*out, Message("super_device_id is missing on server {name}", name=name)]
        seen += [f"{pod_of.get(name, '')}/{d['super_device_id']}" for d in server["device"]]
    twice = _twice(seen)
    if twice:
        out.append(
            Message(
                "super_device_id {partition} is given twice in super pod {first_partition}",
                partition=twice.partition("/")[2],
                first_partition=twice.partition("/")[0],
            )
        )
    if len(set(order)) > 1 and any(not d.get("device_ip") for s in servers for d in s["device"]):
        out.append(Message("device_ip is missing, which several super pods need"))
    return out


def _twice(values: Iterable[str]) -> str:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return ""


def _is_port(value: Any) -> bool:
    return is_number(str(value)) and 1 <= int(value) <= 65535


def _family(ip: str) -> int:
    """4 or 6; 0 for what is not an address."""
    try:
        return ipaddress.ip_address(ip).version
    except ValueError:
        return 0
