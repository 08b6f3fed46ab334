"""The CPU in a rank."""

from __future__ import annotations

import torch

from launcher.worker.accelerators.base import Base


class Cpu(Base):
    """One device, which all ranks share."""

    def place(self, name: str, local_index: int) -> torch.device:
        return torch.device(name)

    def works_in_fork(self, name: str) -> bool:
        return True
