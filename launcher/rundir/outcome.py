"""How a job ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launcher.rundir.records import Failure


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the exit code for the shell, and failure.json or metrics.json where there is one."""

    exit_code: int
    failure: Failure | None = None
    metrics: dict[str, Any] | None = None
