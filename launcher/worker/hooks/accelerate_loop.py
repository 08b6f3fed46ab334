"""accelerate: the loss and the number of steps of a loop that its program wrote itself, and what it logs."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from launcher.rundir import records
from launcher.worker.hooks.base import numbers
from launcher.worker.runtime.events import STEP_EVENT_INTERVAL_S

if TYPE_CHECKING:
    from launcher.worker.hooks.base import Watched

NAME = "accelerate.Accelerator"
LOSSES = ("loss", "train_loss", "train/loss", "training_loss")
RATES = ("learning_rate", "lr", "train/learning_rate", "train/lr")
COUNTS = ("epoch", "step", "global_step")


def attach(module: ModuleType, watched: Watched) -> None:
    """Called with accelerate.accelerator."""
    accelerator = module.Accelerator
    said = Said(watched)
    _before(accelerator, "backward", watched.guarded(NAME, lambda self, loss, *_, **__: watched.note_loss(loss)))
    _before(accelerator, "prepare_scheduler", watched.guarded(NAME, said.scheduler))
    _before(accelerator, "log", watched.guarded(NAME, said.logged))


def _before(owner: Any, name: str, look: Any) -> None:
    method = getattr(owner, name)

    @functools.wraps(method)
    def watched_method(self: Any, *args: Any, **options: Any) -> Any:
        look(self, *args, **options)
        return method(self, *args, **options)

    setattr(owner, name, watched_method)


class Said:
    """What an Accelerator is told of a training."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._said_s = 0.0

    def scheduler(self, accelerator: Any, scheduler: Any, *_: Any, **__: Any) -> None:
        """A schedule has the number of steps: of all ranks together, where accelerate moves it on by one for each rank."""
        total = total_steps(scheduler)
        if total is None or self._watched.has_figures:
            return
        each = (
            1
            if accelerator.split_batches or not accelerator.step_scheduler_with_optimizer
            else accelerator.num_processes
        )
        self._watched.max_steps = math.ceil(total / each)

    def logged(self, accelerator: Any, values: Mapping[str, Any], *_: Any, **__: Any) -> None:
        """Figures for its trackers: a loss, or an evaluation's."""
        watched = self._watched
        if watched.has_figures or not watched.is_first:
            return
        figures = numbers({name: value for name, value in values.items() if isinstance(value, int | float)})
        figures = {name: value for name, value in figures.items() if name not in COUNTS}
        loss = next((figures.pop(name) for name in LOSSES if name in figures), None)
        rate = next((figures.pop(name) for name in RATES if name in figures), None)
        if figures:
            watched.emit(records.Eval.of({"step": watched.step, **figures}))
        elif loss is not None and time.monotonic() - self._said_s >= STEP_EVENT_INTERVAL_S:
            self._said_s = time.monotonic()
            rates = {} if rate is None else {"learning_rate": rate}
            watched.emit(records.Log.of({"step": watched.step, "loss": loss, **rates}))


def total_steps(scheduler: Any) -> int | None:
    """How many steps a schedule is made for; None where it does not say. transformers' have it in their function."""
    for function in getattr(scheduler, "lr_lambdas", ()):
        total = (getattr(function, "keywords", None) or {}).get("num_training_steps")
        if isinstance(total, int) and total > 0:
            return total
    total = getattr(scheduler, "total_steps", None)
    return total if isinstance(total, int) and total > 0 else None
