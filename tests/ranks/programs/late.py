"""`late.py reducer|end`: gloo's thread is as late as it can be with the last collective when what it belongs to goes: DDP's
Reducer, or all of Python."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def hold_up_gloo() -> None:
    """Who waits for a thread of gloo's then goes on before it, and keeps the GIL."""
    core = {max(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, core)
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text() == "pt_gloo_runloop\n":
            os.sched_setaffinity(int(task.name), core)
            os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
    sys.setswitchinterval(60)


dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8))
for _ in range(2):
    loss = model(torch.ones(2, 8)).sum()
    loss.backward()
total = loss.detach()
hold_up_gloo()
dist.all_reduce(total)
dist.destroy_process_group()
if sys.argv[1] == "reducer":
    del model, loss
    gc.collect()
