"""A plain DDP loop, on the card of LOCAL_RANK where a second word is npu. Rank 1 stands still: `early` before it joins, `loop` after ten steps. `busy`: it does something else for
a while, for which the others wait."""

from __future__ import annotations

import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

what, is_culprit = sys.argv[1], os.environ["RANK"] == "1"
if what == "early" and is_culprit:
    time.sleep(1000)
device = torch.device("cpu")
if sys.argv[2:] == ["npu"]:
    device = torch.device("npu", int(os.environ["LOCAL_RANK"]))
    torch.npu.set_device(device)
dist.init_process_group("gloo" if device.type == "cpu" else "hccl")
model = DistributedDataParallel(torch.nn.Linear(8, 8).to(device))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for step in range(20):
    if what == "loop" and is_culprit and step == 10:
        time.sleep(1000)
    model(torch.ones(4, 8, device=device)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
started = time.monotonic()
while what == "busy" and is_culprit and time.monotonic() - started < 15:
    sum(range(10_000))
dist.barrier()
dist.destroy_process_group()
