"""The part of an accelerator that runs in ranks: an accelerator names its own (`worker`), and this loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from launcher import plugins

if TYPE_CHECKING:
    import torch

    from launcher.planning.plan import Plan


class Device(Protocol):
    """What of a rank's work depends on the accelerator. `launcher.worker.accelerators.base.Base` has an answer for all of it."""

    def place(self, name: str, local_index: int) -> torch.device:
        """The device of a rank, made its current one. `name`: torch's, of this kind of device."""

    def works_in_fork(self, name: str) -> bool:
        """Whether the device can be used in a forked process. Opens none."""


def of(plan: Plan) -> Device:
    """The plan's.

    Raises:
        LaunchError: what the accelerator names is not there.
    """
    device: Device = plugins.load_part("accelerator", plan.device, plan.accelerator.worker)
    return device


def module_of(device: torch.device) -> Any:
    """torch's module for the cards of this kind, with their events, memory and random numbers; None for the CPU, which has
    none of these."""
    if device.type == "cpu":
        return None
    import torch

    return torch.get_device_module(device)
