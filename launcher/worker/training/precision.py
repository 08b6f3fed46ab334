"""The precision that trained weights compute in."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from launcher.planning.plan import Plan


def of(plan: Plan, where: torch.device) -> AbstractContextManager[Any]:
    """That of their training: under autocast where the weights themselves have another."""
    if plan.computes_in_weights or plan.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(where.type, torch.bfloat16 if plan.precision == "bf16" else torch.float16)
