"""`fails.py PROGRAM ARGUMENT...`: the program as it is, but in rank 1 the second step of any optimizer raises."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

from torch.optim import optimizer

steps = 0


def raise_at_the_second(*_: Any) -> None:
    global steps
    steps += 1
    if steps == 2 and os.environ["RANK"] == "1":
        raise ValueError("the second step")


optimizer.register_optimizer_step_post_hook(raise_at_the_second)
del sys.argv[0]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
