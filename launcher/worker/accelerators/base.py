"""What accelerators have in common in a rank: cards by torch's own interface for them."""

from __future__ import annotations

import torch


class Base:
    """Cards of a kind that torch knows by its name (see table.Device)."""

    def place(self, name: str, local_index: int) -> torch.device:
        torch.get_device_module(name).set_device(local_index)
        return torch.device(name, local_index)

    def works_in_fork(self, name: str) -> bool:
        return bool(torch.get_device_module(name).is_available())
