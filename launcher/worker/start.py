"""What must be settled in a process before it imports torch."""

from __future__ import annotations

import os
import sys

from launcher import files
from launcher.rundir.paths import RunDir


def settle(run: RunDir) -> None:
    """Set what env.json says, never over a value that is already there but for what it says to unset; keep torch_npu
    out of CPU runs, and DeepSpeed out of runs of another engine.

    transformers and DeepSpeed import torch_npu wherever it is installed, and without CANN that import fails. accelerate
    imports DeepSpeed wherever it is installed, to ask whether a model is its engine: 0.3 s and 14 MB on each rank.
    """
    settings = files.read_json(run.env_path) or {}
    for row in settings.get("unset", []):
        os.environ.pop(row["name"], None)
    for row in settings.get("set", []):
        os.environ.setdefault(row["name"], row["value"])
    plan = run.plan()
    for name in plan.accelerator.blocked_modules:
        sys.modules[name] = None  # type: ignore[assignment]
    if not plan.sharing.needs_deepspeed and plan.program is None:
        sys.modules["deepspeed"] = None  # type: ignore[assignment]
