"""The trial of a fork: a child uses what ranks will use."""

from __future__ import annotations

import sys

from launcher.errors import LaunchError
from launcher.planning.plan import Plan
from launcher.worker.accelerators import table


def main(plan: Plan) -> None:
    """In a forked child: compute, and look at the device. A hang or a crash here means that forking is not safe.

    Raises:
        LaunchError: the device does not work in a forked process.
    """
    if plan.program is not None and "torch" not in sys.modules:
        return  # nothing was imported that a fork could break
    import torch

    torch.ones(64, 64).matmul(torch.ones(64, 64))
    if not table.of(plan).works_in_fork(plan.accelerator.torch_name):
        raise LaunchError("no {device} is usable in a forked process", exit_code=1, device=plan.device.upper())
