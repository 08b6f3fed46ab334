"""The settings and the shared file of the virtual machine, as src/machine.cpp reads them, for the command stand-ins."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

HOLDERS = 64
HOLDER = struct.Struct("=iiQ")
"""pid, communicators, bytes: struct Holder in src/machine.hpp."""
HBM_GB = {"910A": 32, "910ProB": 32, "910B1": 64, "910B2": 64, "910B3": 64, "910B4": 32, "910_9392": 64}
FIRMWARE_MB = 3400
"""What an idle card shows as used."""


@dataclass(frozen=True)
class Process:
    pid: int
    name: str
    size_mb: int


@dataclass(frozen=True)
class Card:
    index: int
    health: str
    used_mb: int
    total_mb: int
    processes: tuple


def setting(name, otherwise):
    return os.environ.get(name) or otherwise


def soc():
    return setting("EMULATED_SOC", "910B3").removeprefix("Ascend")


def driver_version():
    return setting("EMULATED_DRIVER_VERSION", "25.5.2")


def fault(name, card=None):
    """The value of a fault, "" where it has none, None where it is not set."""
    for one in setting("EMULATED_FAULTS", "").split(","):
        key, _, value = one.partition("=")
        if key == (name if card is None else f"{name}:{card}"):
            return value
    return None


def hbm_mb():
    if given := os.environ.get("EMULATED_HBM_GB"):
        return int(float(given) * 1024) + FIRMWARE_MB
    return HBM_GB.get(soc(), 64) * 1024


def process_name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def processes(index):
    path = Path(setting("EMULATED_STATE", f"/dev/shm/emulated-cann-{os.getuid()}"))
    found = []
    if path.exists():
        data = path.read_bytes()[index * HOLDERS * HOLDER.size : (index + 1) * HOLDERS * HOLDER.size]
        for pid, _, size in HOLDER.iter_unpack(data):
            if pid and (name := process_name(pid)):
                found.append(Process(pid, name, size // 2**20))
    if (held := fault("busy", index)) is not None:
        found.append(Process(4242, "python3", int(float(held or 1024))))
    return tuple(found)


def card(index):
    health = "OK"
    for name, shown in (("warning", "Warning"), ("unhealthy", "Alarm"), ("critical", "Critical")):
        if fault(name, index) is not None:
            health = shown
    running = processes(index)
    used = hbm_mb() if fault("oom", index) is not None else min(hbm_mb(), FIRMWARE_MB + sum(p.size_mb for p in running))
    return Card(index, health, used, hbm_mb(), running)


def cards():
    return [card(i) for i in range(int(setting("EMULATED_NPUS", "8")))]
