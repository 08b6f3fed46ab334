"""Which NPUs does this node have? Text of npu-smi and its relatives → values. Only `runner` starts a process.

The format strings were read in npu-smi's source (driver repository, npucli/src/npu_info_print*.c); the traps are
listed beside the code that steps around them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from launcher.errors import LaunchError
from launcher.machine.cluster import Device, Process
from launcher.messages import Message
from launcher.text import MIB


@dataclass(frozen=True)
class Info:
    """What `npu-smi info` said."""

    driver_version: str
    devices: tuple[Device, ...]
    has_process_table: bool
    """False on old drivers and in cut captures: then processes are unknown, which is not the same as none."""
    warnings: tuple[str, ...] = ()


_VERSION = re.compile(r"npu-smi\s+(\S+)\s+Version:\s*(\S+)")
_USAGE = re.compile(r"(\d+)\s*/\s*(\d+)")  # the used half and the slash can be glued: "60018/ 65536"
_BUS = re.compile(r"^[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]$")
_HEALTH = re.compile(r"^(OK|Warning|Alarm|Critical|UNKNOWN|NA|Offline)$", re.IGNORECASE)
# A cell cannot hold more digits than this; a longer run is damage, and int() of thousands of digits raises.
MAX_DIGITS = 9

_FAILURES = (
    (
        re.compile(r"dcmi (?:module|model) initiali[sz]ed? failed(?:.*?ret is (-?\d+))?"),
        "npu-smi cannot reach the NPU driver (dcmi code {0})",
        Message(
            "on the host: check that the driver is loaded (`lsmod | grep drv_`) and that you are in "
            "group HwHiAiUser, and reboot if it was just installed; in a container: pass /dev/davinci*, "
            "/dev/davinci_manager, /dev/devmm_svm, /dev/hisi_hdc and mount /usr/local/Ascend/driver and "
            "/usr/local/dcmi"
        ),
    ),
    (
        re.compile(r"There is no NPU card"),
        "npu-smi finds no NPU on this host",
        Message(
            "check `lspci | grep acce`; in a container, pass the /dev/davinci* devices; without NPUs use --device cpu"
        ),
    ),
    (
        re.compile(r"Operation not permitted"),
        "npu-smi was not permitted to read the devices",
        Message("run as root on the host, or as a user in group HwHiAiUser"),
    ),
    (
        re.compile(r"libc_sec\.so|libdrvdsmi\w*\.so|libdcmi\.so|cannot open shared object file"),
        "npu-smi cannot load the driver's libraries",
        Message(
            "mount /usr/local/Ascend/driver and /usr/local/dcmi, and put driver/lib64/{common,driver} on "
            "LD_LIBRARY_PATH"
        ),
    ),
)


def failure(text: str) -> LaunchError | None:
    """The reason inside npu-smi's own error text, or None where there is none."""
    for pattern, what, hint in _FAILURES:
        if m := pattern.search(text):
            return LaunchError(what.format(*(g or "unknown" for g in m.groups())), hint=hint)
    return None


def to_int(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def _cells(line: str) -> list[str]:
    return [c.strip() for c in line.strip().strip("|").split("|")]


def _usage_bytes(text: str) -> tuple[int, int]:
    """(used, total) of the device's own memory: the last pair, since 910B and A3 print `0 / 0` memory before HBM."""
    pairs = [(int(a), int(b)) for a, b in _USAGE.findall(text) if len(a) <= MAX_DIGITS and len(b) <= MAX_DIGITS]
    used, total = pairs[-1] if pairs else (0, 0)
    if total == 0 and len(pairs) > 1:
        used, total = pairs[-2]
    return used * MIB, total * MIB


@dataclass
class _Pending:
    """The first of a chip's two rows, waiting for the second."""

    npu_id: int
    name: str
    health: str


def _second_row(first: _Pending, cells: list[str], index: int) -> Device | None:
    """Row two: `Chip [Phy-ID|Device] | Bus-Id | AICore Memory HBM`. On 950 the chip cell is blank."""
    ids = [to_int(t) for t in cells[0].split()]
    bus, usage = cells[-2], cells[-1]
    if None in ids or len(ids) > 2 or not (_BUS.match(bus) or bus == "NA") or not _USAGE.search(usage):
        return None
    used, total = _usage_bytes(usage)
    chip_id = ids[0] if ids else 0
    return Device(
        index=index,
        name=first.name,
        hbm_bytes=total,
        hbm_used_bytes=used,
        health=first.health,
        physical_id=ids[1] if len(ids) == 2 else first.npu_id,
        bus_id=None if bus == "NA" else bus,
        npu_id=first.npu_id,
        chip_id=chip_id,
    )


def _first_row(cells: list[str]) -> _Pending | None:
    """Row one: `NPU Name | Health | Power Temp Hugepages`; the 950 layout has a bar between NPU and Name."""
    if len(cells) == 4 and to_int(cells[0]) is not None:
        cells = [f"{cells[0]} {cells[1]}", *cells[2:]]
    if len(cells) != 3 or not _HEALTH.match(cells[1]):
        return None
    number, _, name = cells[0].partition(" ")
    npu_id = to_int(number)
    if npu_id is None or not name.strip():
        return None
    return _Pending(npu_id, name.strip(), cells[1])


def _process_row(cells: list[str]) -> tuple[tuple[int, int], Process] | None:
    """`NPU Chip | pid | name | MB [| pid in container]`; a 950 row has no chip. Names may be blank in containers."""
    ids = [to_int(t) for t in cells[0].split()]
    if len(cells) not in (4, 5) or not ids or None in ids or len(ids) > 2:
        return None
    size = to_int(cells[3])
    if size is None:
        return None
    npu_id, chip_id = ids[0], ids[1] if len(ids) == 2 else 0
    assert npu_id is not None and chip_id is not None
    container_pid = to_int(cells[4]) if len(cells) == 5 else None
    return (npu_id, chip_id), Process(to_int(cells[1]), cells[2], size * MIB, container_pid)


def parse_info(text: str) -> Info:
    """`npu-smi info` → driver version, devices in logical order, processes.

    Chips are pairs of rows; the separators between them differ by product and driver and are not looked at. Logical
    ids count the chips shown: in a container with cards 0, 1 and 15 they are 0, 1 and 2, whatever the NPU column says.
    Raises LaunchError where npu-smi reports its own failure, and where there is no table at all.
    """
    version, first, in_processes, has_table = "", None, False, False
    devices: list[Device] = []
    processes: dict[tuple[int, int], list[Process]] = {}
    warnings: list[str] = []
    for line in text.splitlines():
        if not line.lstrip().startswith("|"):
            if "[WARNING]" in line:
                warnings.append(line.strip())
            continue
        if m := _VERSION.search(line):
            version = m.group(2)
        cells = _cells(line)
        if "Process id" in line:
            in_processes = has_table = True
        elif in_processes:
            if row := _process_row(cells):
                processes.setdefault(row[0], []).append(row[1])
        elif first is not None and len(cells) >= 3 and (device := _second_row(first, cells, len(devices))):
            devices.append(device)
            first = None
        else:
            first = _first_row(cells)
    if not devices:
        raise failure(text) or LaunchError(
            "npu-smi info printed no table of NPUs{version}",
            hint="run `npu-smi info` by hand and read what it says; to run without NPUs use --device cpu",
            version=Message(" (driver {version})", version=version) if version else "",
        )
    merged = tuple(replace(d, processes=tuple(processes.get((d.npu_id or 0, d.chip_id or 0), ()))) for d in devices)
    return Info(version, merged, has_table, tuple(warnings))
