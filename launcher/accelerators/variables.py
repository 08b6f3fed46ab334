"""A variable of the ranks' environment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One variable of the ranks' environment. `kept` is true where the user's own value stands."""

    name: str
    value: str
    reason: str
    kept: bool = False


Row = tuple[str, str, str]
