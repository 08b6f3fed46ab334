"""A loss of the user's own on one small batch, before there are ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe import user_code
from launcher.recipe.tasks.table import MANY_LABELS, TOKENS, VALUES
from launcher.worker.losses import table

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.worker.losses.base import Function

ROWS = 4
VOCABULARY = 32
"""Columns of logits where they are of tokens."""
TOLERANCE = 1e-4
"""Relative, between a sum and its parts: far above rounding, and far below a mean's difference."""


def check_loss(plan: Plan, num_labels: int) -> None:
    """Refuse a function of the user's that is no sum of losses.

    Raises:
        LaunchError: with the function's line, and what it gives.
    """
    function = table.function(plan)
    if function is None:
        return
    problem = problem_of(function, *batch(plan.recipe.task.targets(plan.recipe.model, plan.recipe.data), num_labels))
    if problem is None:
        return
    raise LaunchError(
        "{path}:{line}: {function}: {problem}",
        hint='return the sum of the losses of all rows, as a tensor with one number: reduction="sum"',
        path=function.path,
        line=user_code.line_of(plan.recipe.code[function.reference.file], function.reference.function),
        function=function.reference.function,
        problem=problem,
    )


def batch(targets: str, num_labels: int) -> tuple[Tensor, Tensor]:
    """Logits and targets of a few made-up rows."""
    width = VOCABULARY if targets == TOKENS else max(num_labels, 1)
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, width, generator=draw)
    if targets == VALUES:
        return logits, torch.randn(ROWS, width, generator=draw)
    if targets == MANY_LABELS:
        return logits, torch.randint(2, (ROWS, width), generator=draw).float()
    return logits, torch.arange(ROWS) % width


def problem_of(function: Function, logits: Tensor, targets: Tensor) -> Message | None:
    """What is wrong with a loss; None where nothing is."""
    logits = logits.clone().requires_grad_()
    loss: Any = function(logits, targets)
    if not isinstance(loss, Tensor) or loss.shape != ():
        return Message("returns {value}, and not one number as a tensor", value=_described(loss))
    if not loss.isfinite():
        return Message("returns {value} for {rows} rows of ordinary logits", value=loss.item(), rows=ROWS)
    if not _has_gradient(loss, logits):
        return Message("has no gradient by the logits: something in it is detached, or turned into a Python number")
    return _not_a_sum(lambda rows: float(function(logits.detach()[rows], targets[rows])))


def _not_a_sum(value: Callable[[list[int]], float]) -> Message | None:
    one, two = value([0]), value([0, 0])
    if _differ(two, 2 * one):
        return Message(
            "gives {two:.6g} for two equal rows and {one:.6g} for one of them, and the sum of both is {sum:.6g}",
            two=two,
            one=one,
            sum=2 * one,
        )
    rows = list(range(ROWS))
    whole, parts = value(rows), sum(value([row]) for row in rows)
    if _differ(whole, parts):
        return Message(
            "gives {whole:.6g} for {count} rows, and {parts:.6g} for each alone, summed: a row's loss depends on others",
            whole=whole,
            count=ROWS,
            parts=parts,
        )
    return None


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > TOLERANCE * max(abs(one), abs(other), 1e-6)


def _has_gradient(loss: Tensor, logits: Tensor) -> bool:
    if not loss.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(loss, logits, allow_unused=True)
    return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return Message("a tensor of shape {shape}", shape=list(value.shape))
    return type(value).__name__
