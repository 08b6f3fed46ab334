"""Kernels in ranks: fused operators that take the place of parts of a model, where its recipe names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from launcher.errors import LaunchError
from launcher.recipe import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.planning.plan import Plan


class Kernel(Protocol):
    """A fused operator. It computes what it replaces, within the rounding of the precision that is computed in."""

    interface: int
    """launcher.recipe.kernels.INTERFACE of the launcher that it was written for."""
    name: str
    """As model.kernels says it."""
    accelerators: Sequence[str]
    """Those it is for, by their names."""
    replaces: str
    """What it takes the place of, for messages: RMSNorm layers."""

    def places(self, model: Any) -> list[Any]:
        """The modules of a model that it can take the place of. Under ZeRO-3 their weights are not whole."""

    def apply(self, module: Any) -> None:
        """Take the place of one of these; its parameters stay what they are."""


def apply(plan: Plan, model: Any) -> dict[str, int]:
    """Put the recipe's kernels into a model that was just loaded.

    Returns:
        How many modules each has replaced.

    Raises:
        LaunchError: one is for other accelerators, or for nothing in this model.
    """
    return {name: _apply(kernels.TABLE.load(name), plan, model) for name in plan.recipe.model.kernels}


def _apply(kernel: Kernel, plan: Plan, model: Any) -> int:
    if plan.device not in kernel.accelerators:
        raise LaunchError(
            "model.kernels: {name} is for {accelerators}, and ranks compute on {device}",
            hint="leave it out",
            name=kernel.name,
            accelerators=" and ".join(kernel.accelerators),
            device=plan.device,
        )
    places = kernel.places(model)
    if not places:
        raise LaunchError(
            "model.kernels: {name} replaces {replaces}, and {model} has none that it computes",
            hint="leave it out",
            name=kernel.name,
            replaces=kernel.replaces,
            model=type(model).__name__,
        )
    for module in places:
        kernel.apply(module)
    return len(places)
