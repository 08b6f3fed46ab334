"""Facts of several nodes beside each other."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from typing import Any

from launcher.accelerators.ascend import visible
from launcher.accelerators.ascend.checks_cann import cann_version
from launcher.checks import Context, Finding, ok, skip
from launcher.messages import Message

_EQUAL = re.compile(r"^(?:HCCL_|TORCH_HCCL_|PYTORCH_NPU_|TASK_QUEUE|ASCEND_LAUNCH_BLOCKING)")
_MAY_DIFFER = {"HCCL_IF_IP", "HCCL_SOCKET_IFNAME"}


def node_facts(ctx: Context) -> dict[str, Any]:
    """What must be equal on all nodes; `doctor --json` writes it, `compare_nodes` reads it."""
    return {
        "versions": dict(ctx.versions),
        "python": ".".join(map(str, ctx.python)),
        "cann": cann_version(ctx),
        "driver": ctx.found.driver_version,
        "chips": [d.name for d in visible.shown(ctx)],
        "env": {k: v for k, v in sorted(ctx.env.items()) if _EQUAL.match(k) and k not in _MAY_DIFFER},
    }


def machine_facts(ctx: Context) -> dict[str, Any]:
    """What a run's report says of the machine: hard and software, nothing of the environment."""
    import psutil

    facts = {k: v for k, v in node_facts(ctx).items() if k != "env"}
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        **facts,
    }


def compare_nodes(nodes: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Findings on what differs between nodes: {host: its node_facts}."""
    if len(nodes) < 2:
        return [skip("nodes", "one node")]
    findings = []
    for key in ("cann", "driver", "python", "chips"):
        values = {host: json.dumps(facts.get(key)) for host, facts in nodes.items()}
        findings += _differs(
            key, values, Message("link set-up fails or the job runs at the slowest node's pace (EI0008)")
        )
    for section, why in (
        ("versions", Message("ranks disagree on messages")),
        ("env", Message("HCCL needs equal values on every rank (EI0005)")),
    ):
        names = sorted({n for facts in nodes.values() for n in facts.get(section) or {}})
        for name in names:
            findings += _differs(
                name, {h: str((f.get(section) or {}).get(name, "not set")) for h, f in nodes.items()}, why
            )
    return findings or [ok("nodes", Message("{num_nodes} nodes agree", num_nodes=len(nodes)))]


def _differs(name: str, values: Mapping[str, str], why: str) -> list[Finding]:
    if len(set(values.values())) == 1:
        return []
    common = max(set(values.values()), key=list(values.values()).count)
    odd = ", ".join(f"{host} {value}" for host, value in values.items() if value != common)
    return [
        Finding(
            f"nodes: {name}",
            "fail",
            Message("{name} is {common}, but {odd}", name=name, common=common, odd=odd),
            why,
            "make it equal on all nodes",
        )
    ]
