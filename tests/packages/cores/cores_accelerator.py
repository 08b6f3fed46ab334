"""An accelerator of another package: the cores of this machine by another name, over gloo."""

from __future__ import annotations

from pathlib import Path

from launcher.accelerators.cpu import Cpu
from launcher.accelerators.variables import Row


class Cores(Cpu):
    """Ranks that are told how they were started."""

    interface = 1
    name = "cores"
    worker = "cores_rank:CoresInRank"
    pads_to = 4

    def program_variables(self, run_path: Path) -> list[Row]:
        return [*super().program_variables(run_path), ("CORES_RUN", run_path.name, "ranks on cores ask for it")]


CORES = Cores()
