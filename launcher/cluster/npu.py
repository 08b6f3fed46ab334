"""Which NPUs does this node have? Text of npu-smi and its relatives → values. Only `runner` starts a process.

The format strings were read in npu-smi's source (driver repository, npucli/src/npu_info_print*.c); the traps are
listed beside the code that steps around them.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launcher.cluster.model import MIB, Device, Process
from launcher.errors import LaunchError

Runner = Callable[[Sequence[str]], "tuple[int, str]"]
"""argv → (exit status, stdout and stderr together). 127: no such command. 124: no answer in time."""

VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
RC_TIMEOUT, RC_MISSING = 124, 127
_DEV = Path("/dev")


@dataclass(frozen=True)
class Info:
    """What `npu-smi info` said."""

    driver_version: str
    devices: tuple[Device, ...]
    has_process_table: bool
    """False on old drivers and in cut captures: then processes are unknown, which is not the same as none."""
    warnings: tuple[str, ...] = ()


# --- npu-smi info --------------------------------------------------------------------------------------------------

_VERSION = re.compile(r"npu-smi\s+(\S+)\s+Version:\s*(\S+)")
_USAGE = re.compile(r"(\d+)\s*/\s*(\d+)")  # the used half and the slash can be glued: "60018/ 65536"
_BUS = re.compile(r"^[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]$")
_HEALTH = re.compile(r"^(OK|Warning|Alarm|Critical|UNKNOWN|NA|Offline)$", re.IGNORECASE)
# A cell cannot hold more digits than this; a longer run is damage, and int() of thousands of digits raises.
_MAX_DIGITS = 9

_FAILURES = (
    (
        re.compile(r"dcmi (?:module|model) initiali[sz]ed? failed(?:.*?ret is (-?\d+))?"),
        "npu-smi cannot reach the NPU driver (dcmi code {0})",
        "on the host: check that the driver is loaded (`lsmod | grep drv_`) and that you are in group HwHiAiUser, and "
        "reboot if it was just installed; in a container: pass /dev/davinci*, /dev/davinci_manager, /dev/devmm_svm, "
        "/dev/hisi_hdc and mount /usr/local/Ascend/driver and /usr/local/dcmi",
    ),
    (
        re.compile(r"There is no NPU card"),
        "npu-smi finds no NPU on this host",
        "check `lspci | grep acce`; in a container, pass the /dev/davinci* devices; without NPUs use --device cpu",
    ),
    (
        re.compile(r"Operation not permitted"),
        "npu-smi was not permitted to read the devices",
        "run as root on the host, or as a user in group HwHiAiUser",
    ),
    (
        re.compile(r"libc_sec\.so|libdrvdsmi\w*\.so|libdcmi\.so|cannot open shared object file"),
        "npu-smi cannot load the driver's libraries",
        "mount /usr/local/Ascend/driver and /usr/local/dcmi, and put driver/lib64/{common,driver} on LD_LIBRARY_PATH",
    ),
)


def failure(text: str) -> LaunchError | None:
    """The reason inside npu-smi's own error text, or None where there is none."""
    for pattern, what, hint in _FAILURES:
        if m := pattern.search(text):
            return LaunchError(what.format(*(g or "unknown" for g in m.groups())), hint=hint)
    return None


def _int(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def _cells(line: str) -> list[str]:
    return [c.strip() for c in line.strip().strip("|").split("|")]


def _usage_bytes(text: str) -> tuple[int, int]:
    """(used, total) of the device's own memory: the last pair, since 910B and A3 print `0 / 0` memory before HBM."""
    pairs = [(int(a), int(b)) for a, b in _USAGE.findall(text) if len(a) <= _MAX_DIGITS and len(b) <= _MAX_DIGITS]
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
    ids = [_int(t) for t in cells[0].split()]
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
    if len(cells) == 4 and _int(cells[0]) is not None:
        cells = [f"{cells[0]} {cells[1]}", *cells[2:]]
    if len(cells) != 3 or not _HEALTH.match(cells[1]):
        return None
    number, _, name = cells[0].partition(" ")
    npu_id = _int(number)
    if npu_id is None or not name.strip():
        return None
    return _Pending(npu_id, name.strip(), cells[1])


def _process_row(cells: list[str]) -> tuple[tuple[int, int], Process] | None:
    """`NPU Chip | pid | name | MB [| pid in container]`; a 950 row has no chip. Names may be blank in containers."""
    ids = [_int(t) for t in cells[0].split()]
    if len(cells) not in (4, 5) or not ids or None in ids or len(ids) > 2:
        return None
    size = _int(cells[3])
    if size is None:
        return None
    npu_id, chip_id = ids[0], ids[1] if len(ids) == 2 else 0
    assert npu_id is not None and chip_id is not None
    container_pid = _int(cells[4]) if len(cells) == 5 else None
    return (npu_id, chip_id), Process(_int(cells[1]), cells[2], size * MIB, container_pid)


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
            "npu-smi info printed no table of NPUs" + (f" (driver {version})" if version else ""),
            hint="run `npu-smi info` by hand and read what it says; to run without NPUs use --device cpu",
        )
    merged = tuple(replace(d, processes=tuple(processes.get((d.npu_id or 0, d.chip_id or 0), ()))) for d in devices)
    return Info(version, merged, has_table, tuple(warnings))


# --- the other commands --------------------------------------------------------------------------------------------


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

    Mcu rows carry `-` and are no chips; A3 adds a Phy-ID column, and 950 has no Logic ID.
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
        npu_id, chip_id = _int(row.get("NPU ID", "")), _int(row.get("Chip ID", ""))
        name = row.get("Chip Name", "")
        logic_id, physical_id = _int(row.get("Chip Logic ID", "")), _int(row.get("Chip Phy-ID", ""))
        if npu_id is None or chip_id is None or not name or "mcu" in name.lower():
            continue
        if "Chip Logic ID" in heads and logic_id is None:
            continue
        rows.append(ChipAddress(npu_id, chip_id, logic_id, physical_id, name))
    return tuple(rows)


def with_mapping(devices: Sequence[Device], mapping: Sequence[ChipAddress]) -> tuple[Device, ...]:
    """Logical ids as `-m` gives them, where it gives one for every device; otherwise the devices as they were."""
    logic = {(m.npu_id, m.chip_id): m.logic_id for m in mapping}
    found = [logic.get((d.npu_id or 0, d.chip_id or 0)) for d in devices]
    if None in found or len(set(found)) != len(found):
        return tuple(devices)
    numbered = [replace(d, index=i) for d, i in zip(devices, found, strict=True) if i is not None]
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
    found: dict[str, str] = {}
    for line in text.splitlines():
        if m := re.match(r"\s*([A-Za-z][\w ()%/.-]*?)\s*[:=]\s*(\S.*?)\s*$", line):
            found.setdefault(m.group(1), m.group(2))
    return found


def parse_device_ip(text: str) -> str | None:
    """`hccn_tool -i N -ip -g`."""
    m = re.search(r"^ipaddr:\s*(\S+)", text, re.MULTILINE)
    return m.group(1) if m else None


def parse_tls(text: str) -> int | None:
    """`hccn_tool -i N -tls -g`: 0 off, 1 on. Every card of a job must agree."""
    m = re.search(r"tls switch\[(\d)\]", text)
    return int(m.group(1)) if m else None


# --- ASCEND_RT_VISIBLE_DEVICES -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visible:
    """What CANN makes of a value of ASCEND_RT_VISIBLE_DEVICES."""

    indices: tuple[int, ...]
    """Logical ids that the process will see, renumbered from 0 inside it."""
    problems: tuple[str, ...] = ()
    suggestion: str | None = None
    """A value that means what the user most likely meant; None where nothing is wrong or nothing can be guessed."""


def visible(value: str | None, count: int) -> Visible:
    """The devices CANN will show for `value` on a node of `count`, and every reason why that is not what was asked.

    CANN's rules (runtime documentation and source): unset shows all; empty shows none; ids must rise strictly, or none
    are shown; reading stops at the first thing that is not a digit, so `0, 1` is device 0 alone; the list is cut at the
    first id that the node does not have.
    """
    if value is None:
        return Visible(tuple(range(count)))
    if value == "":
        return Visible((), (f"{VISIBLE} is set but empty, which hides every NPU",), ",".join(map(str, range(count))))
    problems: list[str] = []
    wanted = [int(t) for t in re.findall(r"\d+", value) if len(t) <= _MAX_DIGITS]
    if re.search(r"\s", value):
        problems.append(f"{VISIBLE}={value!r} contains a space: CANN stops reading there")
    if m := re.search(r"[^\d,\s]", value):
        problems.append(f"{VISIBLE}={value!r} contains {m.group()!r}: CANN reads only digits and commas")
    read = _read_ids(value)
    if len(set(read)) != len(read):
        problems.append(f"{VISIBLE}={value!r} names a device twice: CANN then shows none")
    elif any(b < a for a, b in itertools.pairwise(read)):
        problems.append(f"{VISIBLE}={value!r} is not in ascending order: CANN then shows none")
    shown = read if all(a < b for a, b in itertools.pairwise(read)) else []
    beyond = [i for i in wanted if i >= count]
    if beyond:
        has = f"{count} (0 to {count - 1})" if count else "none"
        problems.append(f"{VISIBLE}={value!r} names device {beyond[0]}, but this node has {has}")
        cut = next((k for k, i in enumerate(shown) if i >= count), len(shown))
        shown = shown[:cut]
    if re.search(r"(?<!\d)-\d", re.sub(r"\s", "", value)):  # -1, which hides every card elsewhere
        wanted = []
    good = sorted({i for i in (*wanted, *_ranged(value)) if i < count})
    suggestion = ",".join(map(str, good)) if problems and good else None
    return Visible(tuple(shown), tuple(problems), suggestion)


def _ranged(value: str) -> list[int]:
    """The ids that `0-3` stands for where ranges are known, as in ASCEND_VISIBLE_DEVICES of containers."""
    found = re.findall(r"(\d{1,4})\s*(?:-|~|:|\.\.)\s*(\d{1,4})", value)
    return [i for low, high in found for i in range(int(low), int(high) + 1)]


def _read_ids(value: str) -> list[int]:
    """The ids CANN reads: digits between commas, up to the first other character."""
    ids: list[int] = []
    for part in re.match(r"[\d,]*", value).group().split(","):  # type: ignore[union-attr]
        number = _int(part)
        if number is None:
            break
        ids.append(number)
    return ids


def visible_devices(value: str | None, count: int) -> list[int]:
    """Logical ids that CANN will show; see `visible` for the reasons."""
    return list(visible(value, count).indices)


# --- looking at this node ------------------------------------------------------------------------------------------


def runner(env: Mapping[str, str] | None = None, timeout_s: float = 10.0) -> Runner:
    """A Runner over real processes. LC_ALL=C, since npu-smi translates; a timeout, since it can hang on a sick card."""
    full_env = {**(os.environ if env is None else env), "LC_ALL": "C"}

    def run(argv: Sequence[str]) -> tuple[int, str]:
        try:
            done = subprocess.run(
                list(argv),
                env=full_env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError:
            return RC_MISSING, ""
        except PermissionError as error:
            return 126, str(error)
        except subprocess.TimeoutExpired as error:
            return RC_TIMEOUT, (error.stdout or b"").decode(errors="replace")
        return done.returncode, done.stdout.decode(errors="replace")

    return run


def device_nodes(dev_dir: Path = _DEV) -> tuple[int, ...]:
    """Physical ids with a /dev/davinciN, in order. davinci_manager and the like are not devices."""
    try:
        names = [p.name for p in dev_dir.iterdir()]
    except OSError:
        return ()
    return tuple(sorted(int(m.group(1)) for n in names if (m := re.fullmatch(r"davinci(\d{1,4})", n))))


@dataclass(frozen=True)
class Found:
    """Everything `look` learned."""

    devices: tuple[Device, ...]
    driver_version: str = ""
    source: str = ""
    has_process_table: bool = False
    problem: LaunchError | None = field(default=None, compare=False)
    """Why npu-smi could not be believed, where device nodes show that there are NPUs all the same."""


def look(run: Runner | None, env: Mapping[str, str], dev_dir: Path = _DEV) -> Found:
    """The NPUs of this node, from npu-smi, else from /dev. Never raises; what went wrong is in `problem`."""
    run = run or runner(env)
    nodes = device_nodes(dev_dir)
    rc, text = run(["npu-smi", "info"])
    bare = tuple(Device(index=i, name="", physical_id=n) for i, n in enumerate(nodes))
    if rc == RC_MISSING:
        missing = LaunchError("npu-smi is not on PATH", hint="mount /usr/local/bin/npu-smi, or add it to PATH")
        source = f"{len(nodes)} device nodes in {dev_dir}; npu-smi is not installed"
        return Found(bare, source=source, problem=missing if nodes else None)
    if rc == RC_TIMEOUT:
        hung = LaunchError("npu-smi info did not answer in time", hint="a card may hang: see `dmesg`, then reset it")
        return Found(bare, source=f"{len(nodes)} device nodes in {dev_dir}; npu-smi did not answer", problem=hung)
    try:
        info = parse_info(text)
    except LaunchError as error:
        return Found(bare, source=f"{len(nodes)} device nodes in {dev_dir}; npu-smi failed", problem=error)
    devices = info.devices
    if any((d.npu_id, d.chip_id) != (d.index, 0) for d in devices):  # more than one die, or gaps: ask for the numbering
        map_rc, map_text = run(["npu-smi", "info", "-m"])
        devices = with_mapping(devices, parse_mapping(map_text)) if map_rc == 0 else devices
    return Found(devices, info.driver_version, f"npu-smi info (driver {info.driver_version})", info.has_process_table)


def find(run: Runner | None, env: Mapping[str, str], dev_dir: Path = _DEV) -> tuple[Device, ...]:
    """All NPUs of this node in logical order; () where there are none. Raises LaunchError where there are some and
    the driver cannot be asked. ASCEND_RT_VISIBLE_DEVICES is not applied here: see `visible`."""
    found = look(run, env, dev_dir)
    if not found.devices and found.problem is not None and found.problem.what.startswith("npu-smi cannot reach"):
        raise found.problem
    return found.devices
