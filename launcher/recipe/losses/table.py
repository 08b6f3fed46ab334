"""The losses: what a training makes small. Each is one file beside this one and one in launcher/worker/losses, or an entry
point of another package in the group `ascend_launch.losses`; or a function of the user's, `FILE.py:FUNCTION`.

This half is facts and checks of a recipe; `worker` says where the half is that runs in ranks (a
`launcher.worker.losses.base.Loss`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from launcher.plugins import Table
from launcher.recipe import user_code
from launcher.recipe.losses.users import USERS

INTERFACE = 1
Problem = tuple[str, str]
"""A key below `loss:`, and what is wrong."""


class Loss(Protocol):
    """A loss."""

    @property
    def interface(self) -> int:
        """INTERFACE of the launcher that it was written for."""

    @property
    def name(self) -> str:
        """As `loss:` says it."""

    @property
    def worker(self) -> str:
        """`module:Class` of the half that runs in ranks."""

    @property
    def targets(self) -> frozenset[str]:
        """Of which of launcher.recipe.tasks.table.TARGETS it can be taken."""

    @property
    def parameters(self) -> Mapping[str, str]:
        """Keys below `loss:`, and what each means. `problems` checks their values."""

    @property
    def takes_class_weights(self) -> bool:
        """Whether it follows model.class_weights."""

    @property
    def takes_smoothing(self) -> bool:
        """Whether it follows training.label_smoothing_factor."""

    def problems(self, parameters: Mapping[str, Any]) -> Iterator[Problem]:
        """What is wrong with the values of parameters that it has."""


_HERE = "launcher.recipe.losses"
TABLE: Table[Loss] = Table(
    "loss",
    "ascend_launch.losses",
    INTERFACE,
    {
        "cross-entropy": f"{_HERE}.cross_entropy:CROSS_ENTROPY",
        "focal": f"{_HERE}.focal:FOCAL",
        "mean-squared-error": f"{_HERE}.mean_squared_error:MEAN_SQUARED_ERROR",
    },
)


def load(name: str) -> Loss:
    """The loss of this name, or what a function of the user's is. Raises LaunchError where there is none."""
    return USERS if user_code.reference(name) is not None else TABLE.load(name)


def of(name: str | None, targets: str) -> Loss:
    """The loss that a recipe names; else the first of the table that can be taken of these targets."""
    if name is not None:
        return load(name)
    return next(loss for loss in map(TABLE.load, TABLE.built_in) if targets in loss.targets)
