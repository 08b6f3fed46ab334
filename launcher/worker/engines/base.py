"""What engines have in common: the model is whole on every rank, and nothing is to be done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.worker.engines.checks import same
from launcher.worker.engines.pieces import Held, Parts, Piece

MIXED_PRECISION = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}
"""The precisions by accelerate's names."""


class Base:
    """An engine for a strategy that neither shards nor wraps (see table.Engine)."""

    def preload(self) -> None:
        pass

    def join(self, plan: Plan, *, timeout_s: float) -> None:
        pass  # TrainingArguments does, for DDP and FSDP2

    def before_trainer(self, plan: Plan) -> None:
        pass

    def after_trainer(self, trainer: Any) -> None:
        pass

    def adapt_model(self, model: Any) -> None:
        pass

    def world_sizes(self) -> Mapping[str, int]:
        return {}

    def check(self, plan: Plan, trainer: Any) -> dict[str, Any]:
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            raise wrong_engine(plan, trainer.model_wrapped)
        same_precision(plan, trainer)
        return self.check_evaluation(plan, trainer)

    def check_evaluation(self, plan: Plan, trainer: Any) -> dict[str, Any]:
        total = sum(p.numel() for p in trainer.model_wrapped.parameters())
        return {"parameters": total, "local_parameters": total}

    def wrapped_for_evaluation(self, trainer: Any) -> Any:
        # In place: on the device, and under autocast where the training was.
        trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)
        return None

    def gathered(self, trainer: Any, *, whole: bool) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def parts(self, trainer: Any) -> Parts:
        return WholeParts(trainer)


class WholeParts:
    """Parameters that the optimizer steps themselves."""

    def __init__(self, trainer: Any) -> None:
        self.model = trainer.model
        self.optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        self.is_replicated = True
        self._names = {id(p): name for name, p in self.model.named_parameters()}

    def held(self) -> Iterator[Held]:
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                yield Held(parameter, self._pieces(self._names[id(parameter)], parameter))

    def _pieces(self, name: str, parameter: Tensor) -> tuple[Piece, ...]:
        return (Piece(name, 0, 0, parameter.numel()),)

    def values(self) -> dict[str, Any] | None:
        return None

    def set_values(self, saved: dict[str, Any]) -> None:
        pass

    def before_weights(self) -> None:
        pass

    def after_weights(self) -> None:
        pass


def same_precision(plan: Plan, trainer: Any) -> None:
    """Raises LaunchError where accelerate computes in another precision."""
    same(
        Message("accelerate's precision"),
        trainer.accelerator.mixed_precision,
        Message("the plan's"),
        MIXED_PRECISION[plan.precision],
    )


def wrong_engine(plan: Plan, model: Any) -> LaunchError:
    """What to say of a model that came back in another wrapper."""
    return LaunchError(
        "the plan is {strategy} on {world_size} ranks, but the model came back as {kind}",
        hint="unset ACCELERATE_* and DEEPSPEED variables of other jobs; if it stays so, report it with "
        "the run directory",
        exit_code=1,
        strategy=plan.strategy,
        world_size=plan.world_size,
        kind=type(model).__name__,
    )
