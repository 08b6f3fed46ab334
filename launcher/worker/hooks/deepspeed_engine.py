"""DeepSpeed: its own count of steps, since one of them may be several of an optimizer's, and the loss."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.worker.hooks.base import Watched

NAME = "deepspeed.DeepSpeedEngine"


def attach(module: ModuleType, watched: Watched) -> None:
    """Called with deepspeed.runtime.engine."""
    engine_class = module.DeepSpeedEngine
    step, backward = engine_class.step, engine_class.backward
    note_loss = watched.guarded(NAME, watched.note_loss)

    def begin() -> None:
        watched.counts_steps = watched.counts_steps or NAME

    def count(engine: Any) -> None:
        if watched.counts_steps == NAME and engine.global_steps != watched.step:
            watched.stepped(engine.global_steps)

    begin_guarded, count_guarded = watched.guarded(NAME, begin), watched.guarded(NAME, count)

    @functools.wraps(step)
    def watched_step(self: Any, *args: Any, **options: Any) -> Any:
        begin_guarded()
        result = step(self, *args, **options)
        count_guarded(self)
        return result

    @functools.wraps(backward)
    def watched_backward(self: Any, loss: Any, *args: Any, **options: Any) -> Any:
        note_loss(loss)
        return backward(self, loss, *args, **options)

    engine_class.step, engine_class.backward = watched_step, watched_backward
