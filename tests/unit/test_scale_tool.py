"""The numbers of docs/lab/scale.md can be made again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent


def test_the_scale_tool_goes_through_every_part():
    """For few nodes, without their meeting, which takes a torch a process."""
    argv = [sys.executable, "tools/scale.py", "--nodes", "20", "--nproc", "2", "--no-meeting"]
    ran = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=120, check=False)

    assert 0 == ran.returncode, ran.stderr
    for said in ("20 hosts", "40 ranks", "40 records"):
        assert said in ran.stdout
