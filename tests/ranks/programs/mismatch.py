"""Ranks whose collectives do not fit together from the fourth on: mismatch.py cpu|npu dtype|shape|missing|order"""

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

device, how = sys.argv[1:]
is_odd = os.environ["RANK"] == "1"
if device == "npu":
    torch.npu.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("hccl" if device == "npu" else "gloo", timeout=timedelta(seconds=4))


def add(size, dtype=torch.float32):
    x = torch.ones(size, dtype=dtype, device=device)
    dist.all_reduce(x)
    return x.cpu()


def send(size):
    x = torch.ones(size, device=device)
    dist.broadcast(x, 0)
    return x.cpu()


for _ in range(3):
    add(3)
if how == "dtype":
    # gloo adds up bytes without a word where sizes fit; HCCL has no double.
    add(4, {"cpu": torch.float64, "npu": torch.int32}[device] if is_odd else torch.float32)
elif how == "shape":
    add(5 if is_odd else 4)
elif how == "order" and is_odd:
    send(3), add(3)
elif how == "order":
    add(3), send(3)
elif not is_odd:
    add(7)
add(3)
