"""torch: a sign of life at each optimizer's step, and the count of them."""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.worker.hooks.base import Watched


def attach(module: ModuleType, watched: Watched) -> None:
    """Called with torch.optim.optimizer."""
    import torch  # still being imported

    first: weakref.ref[Any] | None = None

    def stepped(optimizer: Any, args: Any, kwargs: Any) -> None:
        """Of several optimizers the one that stepped first counts: two of a GAN, or one for each parameter, make one step."""
        nonlocal first
        if first is None or first() is None:
            watched.optimizer = first = weakref.ref(optimizer)
        if watched.counts_steps or first() is not optimizer:
            watched.beat("optimizer")
        else:
            watched.stepped()

    guarded = watched.guarded("torch.optim", stepped)

    def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling():  # a step that is traced is not made
            guarded(optimizer, args, kwargs)

    module.register_optimizer_step_post_hook(hook)
