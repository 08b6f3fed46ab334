"""What most accelerators have in common: cards that torch itself knows, found by the package that adds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launcher.accelerators.table import INTERFACE, Cards, Ports
from launcher.accelerators.variables import Row, Variable
from launcher.checks import Check, Context
from launcher.errors import LaunchError
from launcher.machine.commands import Runner
from launcher.machine.processes import Running
from launcher.messages import Message


class Base:
    """An accelerator with nothing of its own; others change what differs (see table.Accelerator)."""

    interface = INTERFACE
    name: str
    worker = "launcher.worker.accelerators.base:Base"
    torch_name: str
    torch_extension: str | None = None
    packages: tuple[str, ...] = ()
    blocked_modules: tuple[str, ...] = ()
    backend: str
    accelerate_type = "MULTI_GPU"
    has_cards = True
    needs_cann = False
    gres: str | None = None
    pads_to = 1
    bucket_elements = 200_000_000  # as in DeepSpeed's own examples
    scaler_takes_fused = True
    survives_exit = False
    network_variables: tuple[str, ...] = ()

    def find(
        self, env: Mapping[str, str], *, is_asked: bool, run: Runner | None = None, dev_dir: Path = Path("/dev")
    ) -> Cards:
        return Cards((), f"--device {self.name}")

    def assume(self, nproc: int, chip: str | None, hbm_gib: int | None) -> Cards:
        raise LaunchError(
            "--device {name}: no cards of it can be assumed",
            hint="plan on a machine that has such cards",
            name=self.name,
        )

    def checks(self) -> Sequence[Check]:
        return ()

    def slow_checks(self) -> Sequence[Check]:
        return ()

    def holders(self, ctx: Context) -> Sequence[Running]:
        return ()

    def fixed_ports(self, env: Mapping[str, str]) -> Sequence[int]:
        return ()

    def precision(self, asked: str, chip: str | None) -> tuple[str, str]:
        if asked == "auto":
            return "bf16", Message("{name} computes in bf16", name=self.name)
        return asked, Message("as the recipe says")

    def problems(self, training: Mapping[str, object], attention: str | None) -> Iterator[tuple[str, str]]:
        yield from ()

    def variables(self, run_path: Path, user: Mapping[str, str], driver_version: str | None) -> list[Row]:
        return self.program_variables(run_path)

    def program_variables(self, run_path: Path) -> list[Row]:
        return []

    def debug_variables(self) -> list[Row]:
        return []

    def rank_table_variables(self, rank_table: str | None) -> list[Variable]:
        return []

    def removed_variables(self, user: Mapping[str, str], rank_table: str | None) -> list[Variable]:
        return []

    def shared_settings(self, env: Mapping[str, str]) -> dict[str, str]:
        return {}

    def meeting_variables(self, env: Mapping[str, str], interface: str | None, base_port: int | None) -> dict[str, str]:
        return {}

    def ports(self, env: Mapping[str, str], job: str) -> Ports | None:
        return None
