"""HCCL's settings: what is out of range, without effect, or in the way of its ports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from launcher.accelerators.ascend import ranktable_check
from launcher.accelerators.ascend.ports import PORTS_OF_A_BLOCK
from launcher.accelerators.ascend.visible import VISIBLE
from launcher.checks import Context, Finding, bound_ports, ok, port_holder, skip
from launcher.messages import Message

# HCCL's documentation, one page per variable: lowest, highest.
HCCL_RANGES: Mapping[str, tuple[int, int]] = {
    "HCCL_CONNECT_TIMEOUT": (120, 7200),
    "HCCL_EXEC_TIMEOUT": (0, 2_147_483_647),
    "HCCL_IF_BASE_PORT": (1024, 65520),
    "HCCL_BUFFSIZE": (1, 2_147_483_647),
    "HCCL_RDMA_TC": (0, 255),
    "HCCL_RDMA_SL": (0, 7),
    "HCCL_RDMA_TIMEOUT": (5, 24),
    "HCCL_RDMA_RETRY_CNT": (1, 7),
    "HCCL_RDMA_QPS_PER_CONNECTION": (1, 32),
    "HCCL_WHITELIST_DISABLE": (0, 1),
    "HCCL_INTRA_PCIE_ENABLE": (0, 1),
    "HCCL_INTRA_ROCE_ENABLE": (0, 1),
    "TORCH_HCCL_ASYNC_ERROR_HANDLING": (0, 3),
    "TASK_QUEUE_ENABLE": (0, 2),
    "ASCEND_LAUNCH_BLOCKING": (0, 1),
    "ASCEND_GLOBAL_LOG_LEVEL": (0, 4),
}


def check_hccl_ranges(ctx: Context) -> Finding:
    name = "HCCL variables"
    for variable, (low, high) in HCCL_RANGES.items():
        value = ctx.env.get(variable)
        if value is None:
            continue
        if not re.fullmatch(r"\d{1,10}", value) or not low <= int(value) <= high:
            return Finding(
                name,
                "fail",
                Message(
                    "{variable}={value} is not in {low} to {high}", variable=variable, value=value, low=low, high=high
                ),
                "HCCL refuses to start (EI0001)",
                Message("correct it, or unset {variable}", variable=variable),
            )
    connect, execute = ctx.env.get("HCCL_CONNECT_TIMEOUT", "120"), ctx.env.get("HCCL_EXEC_TIMEOUT", "1836")
    if execute != "0" and int(connect) >= int(execute):
        return Finding(
            name,
            "warn",
            Message(
                "HCCL_CONNECT_TIMEOUT={connect} is not below HCCL_EXEC_TIMEOUT={execute}",
                connect=connect,
                execute=execute,
            ),
            "a rank that comes late then looks like one that hangs",
            "raise HCCL_EXEC_TIMEOUT",
        )
    family = ctx.env.get("HCCL_SOCKET_FAMILY")
    if family not in (None, "AF_INET", "AF_INET6"):
        return Finding(
            name, "fail", f"HCCL_SOCKET_FAMILY={family}", "only AF_INET and AF_INET6 are known", "correct or unset it"
        )
    return ok(name, "in range")


def check_allocator(ctx: Context) -> Finding:
    """torch_npu on torch 2.10 and later reads both names, and raises where both are set."""
    name = "allocator variables"
    ours, theirs = ctx.env.get("PYTORCH_NPU_ALLOC_CONF"), ctx.env.get("PYTORCH_ALLOC_CONF")
    if ours is not None and theirs is not None:
        return Finding(
            name,
            "fail",
            "PYTORCH_NPU_ALLOC_CONF and PYTORCH_ALLOC_CONF are both set",
            "torch_npu raises on import",
            "unset PYTORCH_ALLOC_CONF",
        )
    value = ours or theirs or ""
    if "expandable_segments:True" in value and re.search("max_split_size_mb|garbage_collection_threshold", value):
        return Finding(
            name,
            "fail",
            Message("{value!r} mixes expandable_segments with settings it does not go with", value=value),
            "torch_npu raises at the first allocation",
            "keep expandable_segments:True alone",
        )
    return ok(name, value or "not set")


NO_EFFECT = {
    "NPU_VISIBLE_DEVICES": Message("use {visible}", visible=VISIBLE),
    "CUDA_VISIBLE_DEVICES": Message("use {visible}", visible=VISIBLE),
    "NCCL_SOCKET_IFNAME": "use HCCL_SOCKET_IFNAME",
    "HCCL_ASYNC_ERROR_HANDLING": "use TORCH_HCCL_ASYNC_ERROR_HANDLING",
}


def check_no_effect(ctx: Context) -> Finding:
    name = "variables without effect"
    variables = [v for v in NO_EFFECT if ctx.env.get(v)]
    if variables:
        return Finding(
            name,
            "warn",
            Message("{actual}={env} does nothing on NPUs", actual=variables[0], env=ctx.env[variables[0]]),
            "what it was set for does not happen",
            Message("unset {actual}; {no_effect}", actual=variables[0], no_effect=NO_EFFECT[variables[0]]),
        )
    return ok(name, "none")


def check_queue(ctx: Context) -> Finding:
    name = "blocking launch"
    if ctx.env.get("ASCEND_LAUNCH_BLOCKING") == "1":
        return Finding(
            name,
            "warn",
            "ASCEND_LAUNCH_BLOCKING=1",
            "every operator waits: good stack traces, slow training",
            "unset it for real runs",
        )
    return ok(name, "off")


def interfaces(ctx: Context) -> list[str]:
    try:
        return sorted(p.name for p in ctx.path("/sys/class/net").iterdir())
    except OSError:
        return []


def ifname_matches(value: str, names: Sequence[str]) -> list[str]:
    """What HCCL_SOCKET_IFNAME chooses: `eth` is a prefix, `=eth0` exact, `^` turns the list round."""
    is_not, rest = value.startswith("^"), value.removeprefix("^")
    is_exact, rest = rest.startswith("="), rest.removeprefix("=")
    wanted = [w for w in rest.split(",") if w]
    hit = [n for n in names if any(n == w if is_exact else n.startswith(w) for w in wanted)]
    return [n for n in names if n not in hit] if is_not else hit


def check_interface(ctx: Context) -> Finding:
    name, names = "network interface", interfaces(ctx)
    for variable in ("HCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = ctx.env.get(variable)
        if value and names and not ifname_matches(value, names):
            return Finding(
                name,
                "fail",
                Message(
                    "{variable}={value} names no interface of this host ({names})",
                    variable=variable,
                    value=value,
                    names=", ".join(names),
                ),
                "ranks cannot meet (EI0001)",
                Message("set {variable} to one of them; where hosts differ use HCCL_IF_IP", variable=variable),
            )
    if ctx.num_nodes > 1 and not (ctx.env.get("HCCL_SOCKET_IFNAME") or ctx.env.get("HCCL_IF_IP")):
        return ok(name, "chosen when the nodes meet: the one towards the first node")
    return ok(name, ctx.env.get("HCCL_SOCKET_IFNAME") or "chosen by HCCL")


def block_of_ports(env: Mapping[str, str]) -> range:
    """The ports that HCCL listens on, unless a launch chooses others."""
    text = env.get("HCCL_IF_BASE_PORT", "60000")
    base = int(text) if re.fullmatch(r"\d{1,5}", text) else 60000
    return range(base, base + PORTS_OF_A_BLOCK)


def check_hccl_ports(ctx: Context) -> Finding:
    name, block = "HCCL ports", block_of_ports(ctx.env)
    if ctx.env.get("HCCL_HOST_SOCKET_PORT_RANGE"):
        return ok(
            name,
            Message(
                "chosen from {hccl_host_socket_port_range}",
                hccl_host_socket_port_range=ctx.env["HCCL_HOST_SOCKET_PORT_RANGE"],
            ),
        )
    taken = bound_ports(ctx, block)
    if taken and "HCCL_IF_BASE_PORT" not in ctx.env:
        return ok(
            name,
            Message("port {taken} is taken; a launch takes the next 32 that are free on all nodes", taken=taken[0]),
        )
    if taken:
        who, way_out = port_holder(ctx, taken[0])
        return Finding(
            name,
            "fail",
            Message(
                "port {taken} is taken by {who}; HCCL wants {base} to {last}",
                taken=taken[0],
                who=who,
                base=block[0],
                last=block[-1],
            ),
            "another job runs here, or did until now (EI0019)",
            Message("{way_out}; or unset HCCL_IF_BASE_PORT: a launch finds free ones", way_out=way_out),
        )
    return ok(name, Message("{base} to {last} are free", base=block[0], last=block[-1]))


def check_reserved_ports(ctx: Context) -> Finding:
    """An outgoing connection may be given one of HCCL's ports unless they are reserved."""
    name = "reserved ports"
    text = ctx.text("/proc/sys/net/ipv4/ip_local_port_range").split()
    if len(text) != 2 or not all(t.isdigit() for t in text):
        return skip(name, "the port range cannot be read")
    low, high = int(text[0]), int(text[1])
    if not low <= 60000 <= high:
        return ok(name, Message("outgoing connections use {low} to {high}", low=low, high=high))
    reserved = ctx.text("/proc/sys/net/ipv4/ip_local_reserved_ports").strip()
    spans = [[int(n) for n in part.split("-")] for part in reserved.split(",") if re.fullmatch(r"\d+(-\d+)?", part)]
    if any(s[0] <= 60000 and s[-1] >= 60031 for s in spans):
        return ok(name, "60000 to 60031 are reserved")
    return Finding(
        name,
        "warn",
        Message("outgoing connections may take HCCL's ports ({low} to {high})", low=low, high=high),
        "a launch fails now and then",
        "sysctl -w net.ipv4.ip_local_reserved_ports=60000-60031",
    )


def check_rank_table(ctx: Context) -> Finding:
    """An inherited one. ascend-launch unsets it for its ranks; other launchers pass it on."""
    name, value = "RANK_TABLE_FILE", ctx.env.get("RANK_TABLE_FILE")
    if not value:
        return ok(name, "not set; torch_npu needs none")
    path = ctx.path(value)
    if path.is_symlink():
        what, why = Message("{value} is a link", value=value), Message("HCCL refuses links (EI0004)")
    elif not path.is_file():
        what, why = (
            Message("{value} does not exist", value=value),
            Message("torch_npu goes on without it and says nothing"),
        )
    else:
        problems = ranktable_check.check(ctx.text(value))
        what = (
            Message("{value}: {problem}", value=value, problem=problems[0])
            if problems
            else Message("{value} is inherited", value=value)
        )
        why = (
            Message("the first collective fails (EI0004, EI0014)") if problems else Message("it may be of another job")
        )
    return Finding(
        name,
        "warn",
        Message("{what}; a launch unsets it", what=what),
        why,
        "unset RANK_TABLE_FILE, or ask for one with --rank-table FILE",
    )
