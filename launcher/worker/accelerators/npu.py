"""Ascend cards in a rank."""

from __future__ import annotations

import torch

from launcher.worker.accelerators.base import Base


class Npu(Base):
    """Cards that torch_npu adds to torch."""

    def place(self, name: str, local_index: int) -> torch.device:
        import torch_npu  # noqa: F401  # adds the device

        return super().place(name, local_index)
