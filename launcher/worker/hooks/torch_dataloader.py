"""torch: a sign of life at each batch, so that a long evaluation is not taken for a hang."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.worker.hooks.base import Watched


def attach(module: ModuleType, watched: Watched) -> None:
    """Called with torch.utils.data.dataloader."""
    iterator = module._BaseDataLoaderIter
    beat, take = watched.guarded("torch.utils.data", watched.beat), iterator.__next__

    @functools.wraps(take)
    def take_and_beat(self: Any) -> Any:
        batch = take(self)
        beat("batch")
        return batch

    iterator.__next__ = take_and_beat
