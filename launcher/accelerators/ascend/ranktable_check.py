"""What is wrong with a rank table."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from launcher.machine.nodes import is_number

MOST_LETTERS = 64
"""Of a server_id."""


def check(content: str, num_ranks: int | None = None) -> list[str]:
    """What is wrong with a rank table, by HCCL's rules, and for a job of so many ranks; [] where nothing is."""
    value = loaded(content)
    if isinstance(value, str):
        return [value]
    found = problems(value)
    count = sum(len(s["device"]) for s in value.get("server_list", [])) if not found and isinstance(value, dict) else 0
    if num_ranks is not None and count and count != num_ranks:
        found.append(f"it has {count} ranks, and the job has {num_ranks}")
    return found


def loaded(content: str) -> Any:
    """The JSON value, or a sentence on why it is none."""
    try:
        return json.loads(content)
    except RecursionError:
        return "it is not JSON: nested too deeply"
    except ValueError as error:
        comment = "; comments are not allowed" if re.search(r"^\s*//|,\s*//", content, re.MULTILINE) else ""
        return f"it is not JSON: {error}{comment}"


def problems(value: Any) -> list[str]:
    """As `check`, of a JSON value."""
    if not isinstance(value, dict):
        return ["it is not a JSON object"]
    version = str(value.get("version"))
    out = []
    if value.get("status") != "completed":
        out.append(f"status is {value.get('status')!r}, not 'completed'")
    if version == "2.0":
        return out
    if version not in ("1.0", "1.2"):
        return [*out, f"version {value.get('version')!r} is not known"]
    not_text = next(_not_text(value), "")
    if not_text:
        out.append(f"every value must be a string: {not_text}")
    servers = value.get("server_list")
    if not isinstance(servers, list) or not servers:
        return [*out, "server_list is empty or missing"]
    shapeless = _shapeless(servers)
    if shapeless:
        return [*out, shapeless]
    if (version == "1.0" or "server_count" in value) and str(value.get("server_count")) != str(len(servers)):
        out.append(f"server_count is {value.get('server_count')!r}, but server_list has {len(servers)}")
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
            return f"server_list[{i}] has no list of devices"
        for j, device in enumerate(devices):
            if not isinstance(device, dict):
                return f"server_list[{i}].device[{j}] is not an object"
            for key in ("device_id", "rank_id"):
                if not is_number(str(device.get(key, ""))):
                    return f"server_list[{i}].device[{j}].{key} is {device.get(key)!r}, not a number from 0"
    return ""


def _server_problems(servers: list[dict[str, Any]]) -> list[str]:
    out = []
    ids = [str(server.get("server_id", "")) for server in servers]
    if not all(ids):
        out.append("server_id is missing")
    twice = _twice(ids)
    if twice:
        out.append(f"server_id is not unique: {twice}")
    long = next((name for name in ids if len(name) > MOST_LETTERS), "")
    if long:
        out.append(f"server_id {long[:20]}... is longer than {MOST_LETTERS} letters")
    for name, server in zip(ids, servers, strict=True):
        twice = _twice([str(d["device_id"]) for d in server["device"]])
        if twice:
            out.append(f"server {name} has device_id {twice} twice")
        for key in ("device_port", "backup_device_port", "host_port"):
            bad = [d[key] for d in server["device"] if key in d and not _is_port(d[key])]
            if bad:
                out.append(f"server {name}: {key} {bad[0]!r} is no port")
        twice = _twice([str(d["host_port"]) for d in server["device"] if "host_port" in d])
        if twice:
            out.append(f"server {name} has host_port {twice} twice")
    return out


def _rank_problems(servers: list[dict[str, Any]]) -> list[str]:
    ranks = [[int(d["rank_id"]) for d in server["device"]] for server in servers]
    flat = sorted(rank for of in ranks for rank in of)
    out = []
    if flat != list(range(len(flat))):
        out.append(f"rank_id must be 0 to {len(flat) - 1}, each once")
    for server, of in zip(servers, ranks, strict=True):
        name = server.get("server_id")
        by_id = [rank for _, rank in sorted((int(d["device_id"]), int(d["rank_id"])) for d in server["device"])]
        if max(of) - min(of) + 1 != len(of):
            out.append(f"the ranks of server {name} are not contiguous: {sorted(of)}")
        elif by_id != sorted(by_id):
            out.append(f"the ranks of server {name} do not follow its device ids; its n-th rank takes its n-th device")
    return out


def _address_problems(servers: list[dict[str, Any]], *, is_needed: bool) -> list[str]:
    out = []
    given = [(s.get("server_id"), d["device_id"], str(d.get("device_ip") or "")) for s in servers for d in s["device"]]
    absent = next((f"device {device} of server {server}" for server, device, ip in given if not ip), "")
    if is_needed and absent:
        out.append(f"device_ip is missing, which several servers need: {absent}")
    ips = [ip for _, _, ip in given if ip]
    wrong = next((ip for ip in ips if _family(ip) == 0), "")
    if wrong:
        out.append(f"device_ip {wrong!r} is no address")
    elif len({_family(ip) for ip in ips}) > 1:
        out.append("device_ip mixes IPv4 and IPv6")
    twice = _twice(ips)
    if twice:
        out.append(f"device_ip {twice} is given twice")
    return out


def _pod_problems(pods: Any, servers: list[dict[str, Any]]) -> list[str]:
    if not isinstance(pods, list) or not pods:
        return ["super_pod_list is missing, which version 1.2 needs"]
    members: list[tuple[str, str]] = []
    for i, pod in enumerate(pods):
        of = pod.get("server_list") if isinstance(pod, dict) else None
        if not isinstance(of, list) or not of or not all(isinstance(s, dict) for s in of):
            return [f"super_pod_list[{i}] has no list of servers"]
        members += [(str(s.get("server_id")), str(pod.get("super_pod_id", ""))) for s in of]
    out = []
    if not all(pod for _, pod in members):
        out.append("super_pod_id is missing")
    ids = [str(server.get("server_id")) for server in servers]
    twice = _twice([name for name, _ in members])
    if twice:
        out.append(f"server {twice} is in super_pod_list twice")
    for name in sorted(set(ids) ^ {name for name, _ in members}):
        out.append(f"server {name} is in only one of server_list and super_pod_list")
    pod_of = dict(members)
    order = [pod_of.get(name, "") for name in ids]
    if len([pod for i, pod in enumerate(order) if i == 0 or pod != order[i - 1]]) != len(set(order)):
        out.append("the servers of a super pod must stand together in server_list")
    seen: list[str] = []
    for name, server in zip(ids, servers, strict=True):
        if any(not str(d.get("super_device_id", "")) for d in server["device"]):
            return [*out, f"super_device_id is missing on server {name}"]
        seen += [f"{pod_of.get(name, '')}/{d['super_device_id']}" for d in server["device"]]
    twice = _twice(seen)
    if twice:
        out.append(f"super_device_id {twice.partition('/')[2]} is given twice in super pod {twice.partition('/')[0]}")
    if len(set(order)) > 1 and any(not d.get("device_ip") for s in servers for d in s["device"]):
        out.append("device_ip is missing, which several super pods need")
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
    """4 or 6; 0 for what is no address."""
    try:
        return ipaddress.ip_address(ip).version
    except ValueError:
        return 0
