"""torch: the collectives of a program, recorded from its first process group on."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from launcher.worker.runtime import flight

if TYPE_CHECKING:
    from launcher.worker.hooks.base import Watched


def attach(module: ModuleType, watched: Watched) -> None:
    """Called with torch.distributed.distributed_c10d."""
    flight.arm_at_first_group(module, watched.run.attempt(watched.attempt), watched.index)
