"""A function of the user's: `def mine(logits, targets)`, which returns the sum of a micro batch's losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.recipe.tasks.table import TARGETS


class Users:
    """Of logits (fp32) and targets, in rows, the sum of all rows' losses; never their mean."""

    interface = 1
    name = "FILE.py:FUNCTION"
    worker = "launcher.worker.losses.users:Users"
    targets = frozenset(TARGETS)
    parameters: Mapping[str, str] = {}
    takes_class_weights = False
    takes_smoothing = False

    def problems(self, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from ()


USERS = Users()
