"""What a machine looks like to the launcher: devices, nodes, clusters. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.errors import LaunchError


@dataclass(frozen=True)
class Found:
    """Everything `look` learned."""

    devices: tuple[Device, ...]
    driver_version: str = ""
    source: str = ""
    has_process_table: bool = False
    problem: LaunchError | None = field(default=None, compare=False)
    """Why npu-smi could not be believed, where device nodes show that there are NPUs all the same."""


@dataclass(frozen=True)
class Process:
    """A process that holds memory on a device, as npu-smi lists it (at most eight per chip are listed)."""

    pid: int | None
    """Process id on the host; None where npu-smi prints none."""
    name: str
    """Cut to 15 letters by npu-smi, and blank in containers without the host's process namespace."""
    hbm_bytes: int
    container_pid: int | None = None


@dataclass(frozen=True)
class Device:
    """One die that runs one rank."""

    index: int
    """Logical id from 0: what ASCEND_RT_VISIBLE_DEVICES means."""
    name: str
    """As reported: `910B3`, `Ascend910`, `310P3`."""
    hbm_bytes: int = 0
    """0 means unknown (npu-smi was not there to ask)."""
    hbm_used_bytes: int = 0
    health: str = "UNKNOWN"
    """OK | Warning | Alarm | Critical | UNKNOWN, as npu-smi prints it."""
    physical_id: int | None = None
    """The N of /dev/davinciN and of a rank table's device_id."""
    bus_id: str | None = None
    processes: tuple[Process, ...] = ()
    npu_id: int | None = None
    """With chip_id, the address that npu-smi's -i and -c options take."""
    chip_id: int | None = None

    @property
    def hbm_free_bytes(self) -> int:
        return max(0, self.hbm_bytes - self.hbm_used_bytes)

    @property
    def is_usable(self) -> bool:
        """Warning is usable and said; Alarm and Critical are not."""
        return self.health.lower() not in {"alarm", "critical"}


@dataclass(frozen=True)
class Node:
    hostname: str
    devices: tuple[Device, ...] = ()
    num_cpus: int = 1
    memory_bytes: int = 0


@dataclass(frozen=True)
class Cluster:
    """Where this launch runs, as this node sees it."""

    device: str
    """The accelerator, by its name in launcher.accelerators.table."""
    devices: tuple[Device, ...] = ()
    """Devices of this node that ranks may use; empty on CPU."""
    num_nodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str | None = None
    """host:port of the first node; None on a single node."""
    host_memory_bytes: int | None = None
    """Main memory of this node; None where it is not this machine that is planned for."""
    source: str = ""
    """One sentence on how this was recognised."""
    node_devices: tuple[Device, ...] = ()
    """Every device of this node, visible or not, which ASCEND_RT_VISIBLE_DEVICES counts."""
    nodes_source: str = ""
    """Where the number of nodes and this one's rank come from; '' for one node that nobody numbered."""
    driver_version: str | None = None
    """Of the cards' driver, as npu-smi says it; None where it is not known."""
    job: str | None = None
    """The job's name where the environment says one: equal on all nodes and after a requeue."""
