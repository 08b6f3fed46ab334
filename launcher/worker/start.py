"""What must be settled in a process before it imports torch."""

from __future__ import annotations

import os
import sys

from launcher import rundir
from launcher.rundir import RunDir


def settle(run: RunDir) -> None:
    """Set what env.json says, never over a value that is already there; keep torch_npu out of CPU runs.

    transformers and DeepSpeed import torch_npu wherever it is installed, and without CANN that import fails.
    """
    for row in (rundir.read_json(run.env_path) or {}).get("set", []):
        os.environ.setdefault(row["name"], row["value"])
    if run.plan().device == "cpu":
        sys.modules["torch_npu"] = None  # type: ignore[assignment]
