"""What npu-smi's other questions and hccn_tool answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from launcher.accelerators.ascend.npu_smi import to_int
from launcher.machine.cluster import Device


@dataclass(frozen=True)
class ChipAddress:
    """One row of `npu-smi info -m`."""

    npu_id: int
    chip_id: int
    logic_id: int | None
    physical_id: int | None
    name: str


def parse_mapping(text: str) -> tuple[ChipAddress, ...]:
    """`npu-smi info -m`: where every chip is.

    Mcu rows carry `-` and are not chips; A3 adds a Phy-ID column, and 950 has no Logic ID.
    """
    heads: list[str] = []
    rows: list[ChipAddress] = []
    for line in text.splitlines():
        if "NPU ID" in line and "Chip ID" in line:
            heads = [h.strip() for h in re.split(r"\t+|\s{2,}", line.strip()) if h.strip()]
            continue
        cells = [c.strip() for c in re.split(r"\t+|\s{2,}", line.strip()) if c.strip()]
        if not heads or len(cells) != len(heads):
            continue
        row = dict(zip(heads, cells, strict=True))
        npu_id, chip_id = to_int(row.get("NPU ID", "")), to_int(row.get("Chip ID", ""))
        name = row.get("Chip Name", "")
        logic_id, physical_id = to_int(row.get("Chip Logic ID", "")), to_int(row.get("Chip Phy-ID", ""))
        if npu_id is None or chip_id is None or not name or "mcu" in name.lower():
            continue
        if "Chip Logic ID" in heads and logic_id is None:
            continue
        rows.append(ChipAddress(npu_id, chip_id, logic_id, physical_id, name))
    return tuple(rows)


def with_mapping(devices: Sequence[Device], mapping: Sequence[ChipAddress]) -> tuple[Device, ...]:
    """Logical ids as `-m` gives them, where it gives one for every device; otherwise the devices as they were."""
    logic = {(m.npu_id, m.chip_id): m.logic_id for m in mapping}
    logic_ids = [logic.get((d.npu_id or 0, d.chip_id or 0)) for d in devices]
    if None in logic_ids or len(set(logic_ids)) != len(logic_ids):
        return tuple(devices)
    numbered = [replace(d, index=i) for d, i in zip(devices, logic_ids, strict=True) if i is not None]
    return tuple(sorted(numbered, key=lambda d: d.index))


@dataclass(frozen=True)
class Health:
    """One answer of `npu-smi info -t health`."""

    status: str
    codes: tuple[str, ...] = ()
    information: str = ""


def parse_health(text: str) -> Health | None:
    """`-t health -i N -c C`. Error Information runs over several lines, whose key is then empty."""
    status, in_info = "", False
    codes: tuple[str, ...] = ()
    info: list[str] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if re.fullmatch(r"Health(\s+Status)?", key) and colon:
            status, in_info = value, False
        elif key == "Error Code" and colon:
            codes, in_info = tuple(c for c in value.split() if c.upper() != "NA"), False
        elif key == "Error Information" and colon:
            info, in_info = [value], True
        elif in_info and not key and value:
            info.append(value)
        elif in_info and line.startswith(" ") and line.strip():
            info.append(line.strip())
        elif line.strip():
            in_info = False
    if not status:
        return None
    return Health(status, codes, "" if info in ([], ["NA"]) else " ".join(info))


def parse_topology(text: str) -> dict[str, dict[str, str]]:
    """`-t topo`: {from: {to: link}}, with 'CPU Affinity' as a column of its own where there is one."""
    heads: list[str] = []
    table: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        tokens = line.replace("CPU Affinity", "CPU_Affinity").split()
        if not tokens:
            continue
        if not heads:
            if re.match(r"(NPU|Phy-ID)\d+$", tokens[0]) and len(tokens) > 1 and tokens[1] != "X":
                heads = [t.replace("_", " ") for t in tokens]
            elif re.match(r"(NPU|Phy-ID)\d+$", tokens[0]) and len(tokens) == 1:
                heads = tokens
            continue
        if tokens[0] in heads and len(tokens) == len(heads) + 1:
            table[tokens[0]] = dict(zip(heads, tokens[1:], strict=True))
    return table


def parse_fields(text: str) -> dict[str, str]:
    """`Key : value` and `key=value` lines: -t board, -t usages, version.info, ascend_toolkit_install.info."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        if m := re.match(r"\s*([A-Za-z][\w ()%/.-]*?)\s*[:=]\s*(\S.*?)\s*$", line):
            values.setdefault(m.group(1), m.group(2))
    return values


def parse_device_ip(text: str) -> str | None:
    """`hccn_tool -i N -ip -g`."""
    m = re.search(r"^ipaddr:\s*(\S+)", text, re.MULTILINE)
    return m.group(1) if m else None


def parse_tls(text: str) -> int | None:
    """`hccn_tool -i N -tls -g`: 0 off, 1 on. Every card of a job must agree."""
    m = re.search(r"tls switch\[(\d)\]", text)
    return int(m.group(1)) if m else None
