"""The accelerators: what ranks compute on. Each is one file or folder beside this file, or an entry point of another package
in the group `ascend_launch.accelerators`; nothing outside this folder and `launcher/worker/accelerators/` goes by their names.

An accelerator says how it is found on a machine, what its ranks get in their environment, how they communicate and which
precision they compute in, and where the part of it is that runs in ranks (`worker`, a
`launcher.worker.accelerators.table.Device`). No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from launcher.plugins import Table

if TYPE_CHECKING:
    from launcher.accelerators.variables import Row, Variable
    from launcher.checks import Check, Context
    from launcher.machine.cluster import Device
    from launcher.machine.commands import Runner
    from launcher.machine.processes import Running

INTERFACE = 1


@dataclass(frozen=True)
class Cards:
    """The cards of one node, as a launch will use them."""

    devices: tuple[Device, ...] = ()
    """Those that ranks may use, in their order."""
    source: str = ""
    """One sentence on how they were recognised, or why there are none."""
    node_devices: tuple[Device, ...] = ()
    """All that the node has, hidden ones too."""
    driver_version: str | None = None


class Ports(Protocol):
    """Blocks of ports, of which the nodes of a job agree on one."""

    def offer(self, count: int = ...) -> list[int]:
        """The first ports of blocks that are free on this node, and are held from now on."""

    def keep(self, base: int) -> None:
        """Let go of all blocks but one."""

    def close(self) -> None:
        """Let go of all."""


class Accelerator(Protocol):
    """A kind of device. `launcher.accelerators.base.Base` has an answer for all but the name."""

    interface: int
    """INTERFACE of the launcher that it was written for."""
    name: str
    """As --device and plan.json say it."""
    worker: str
    """`module:attribute` of the part that runs in ranks."""
    torch_name: str
    """As torch and DeepSpeed call it."""
    torch_extension: str | None
    """The module to import that adds it to torch; None where torch has it."""
    packages: tuple[str, ...]
    """Packages beside torch that must be of one version on all nodes."""
    blocked_modules: tuple[str, ...]
    """Modules that its ranks must not import, although they may be installed."""
    backend: str
    """The backend of torch.distributed by which its ranks communicate."""
    accelerate_type: str
    """accelerate's distributed_type of several ranks under DDP."""
    has_cards: bool
    """Whether each rank has a card with memory of its own; otherwise ranks compute on the CPU and share its memory."""
    needs_cann: bool
    """Whether CANN's set_env.sh is sourced before a job, and its driver mounted into containers."""
    gres: str | None
    """Its name among Slurm's generic resources."""
    pads_to: int
    """Batches are padded to a multiple of it."""
    bucket_elements: int
    """reduce_bucket_size of ZeRO's stages 1 and 2, in elements, not bytes."""
    scaler_takes_fused: bool
    """Whether an optimizer's fused step works together with torch's gradient scaler."""
    survives_exit: bool
    """Whether its libraries can be left as they are when a rank ends, which is faster than to unload them."""
    network_variables: tuple[str, ...]
    """Variables that name a node's network, settled when the nodes meet."""

    # -- the machine -----------------------------------------------------------------------------------------------

    def find(
        self, env: Mapping[str, str], *, is_asked: bool, run: Runner | None = None, dev_dir: Path = Path("/dev")
    ) -> Cards:
        """The cards of this node; none, with the reason, where there are none and it was not asked for by name.

        Raises:
            LaunchError: it was asked for and is not here, or is here and cannot be used.
        """

    def assume(self, nproc: int, chip: str | None, hbm_gib: int | None) -> Cards:
        """Cards that need not be there, for `plan`, `render` and --dry-run.

        Raises:
            LaunchError: no such chip, or one that does not train.
        """

    def checks(self) -> Sequence[Check]:
        """What the doctor looks at, quickly."""

    def slow_checks(self) -> Sequence[Check]:
        """What the doctor looks at by starting commands."""

    def holders(self, ctx: Context) -> Sequence[Running]:
        """The processes that hold a card that a launch would use."""

    def fixed_ports(self, env: Mapping[str, str]) -> Sequence[int]:
        """The ports of a node that a launch must have, where the environment leaves it no choice."""

    # -- the plan --------------------------------------------------------------------------------------------------

    def precision(self, asked: str, chip: str | None) -> tuple[str, str]:
        """bf16, fp16 or fp32 for what a recipe asks (these, or auto), and why.

        Raises:
            LaunchError: it does not train in that.
        """

    def problems(self, training: Mapping[str, object], attention: str | None) -> Iterator[tuple[str, str]]:
        """Keys of a recipe with values that it does not have, and why."""

    # -- the environment of its ranks ------------------------------------------------------------------------------

    def variables(self, run_path: Path, user: Mapping[str, str], driver_version: str | None) -> list[Row]:
        """For a recipe's ranks."""

    def program_variables(self, run_path: Path) -> list[Row]:
        """For ranks of the user's own program: the least that lets them be forked, meet and be explained."""

    def debug_variables(self) -> list[Row]:
        """Beside these, with --debug."""

    def rank_table_variables(self, rank_table: str | None) -> list[Variable]:
        """What makes its communication library read this rank table."""

    def removed_variables(self, user: Mapping[str, str], rank_table: str | None) -> list[Variable]:
        """What the user's environment has and ranks must not see."""

    def shared_settings(self, env: Mapping[str, str]) -> dict[str, str]:
        """The variables that must be equal on all nodes."""

    def meeting_variables(self, env: Mapping[str, str], interface: str | None, base_port: int | None) -> dict[str, str]:
        """What only the meeting of the nodes tells: the interface towards the others, and ports free on all of them."""

    def ports(self, env: Mapping[str, str], job: str) -> Ports | None:
        """Where its communication library's ports are chosen from; None where nothing is to be chosen."""


TABLE: Table[Accelerator] = Table(
    "accelerator",
    "ascend_launch.accelerators",
    INTERFACE,
    {"npu": "launcher.accelerators.ascend.npu:NPU", "cpu": "launcher.accelerators.cpu:CPU"},
)
BUILT_IN = tuple(TABLE.built_in)
AUTO = "auto"
HOST = "cpu"
"""Where there are no cards; what `auto` takes then."""
ASSUMED = "npu"
"""Whose cards are planned for where a chip is named, or a job is submitted."""


def load(name: str) -> Accelerator:
    """The accelerator of this name. Raises LaunchError where there is none."""
    return TABLE.load(name)
