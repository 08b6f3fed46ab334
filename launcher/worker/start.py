"""What must be settled in a process before it imports torch."""

from __future__ import annotations

import os
import sys

from launcher import rundir
from launcher.rundir import RunDir


def settle(run: RunDir) -> None:
    """Set what env.json says, never over a value that is already there but for what it says to unset; keep torch_npu
    out of CPU runs.

    transformers and DeepSpeed import torch_npu wherever it is installed, and without CANN that import fails.
    """
    settings = rundir.read_json(run.env_path) or {}
    for row in settings.get("unset", []):
        os.environ.pop(row["name"], None)
    for row in settings.get("set", []):
        os.environ.setdefault(row["name"], row["value"])
    if run.plan().device == "cpu":
        sys.modules["torch_npu"] = None  # type: ignore[assignment]
