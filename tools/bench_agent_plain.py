"""The plain script that tools/bench_agent.py starts under both launchers: torch, one collective, and out.

Each rank notes when its first collective was done; BENCH_OUT names the folder.
"""

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == dist.get_world_size()
(Path(os.environ["BENCH_OUT"]) / f"joined_{os.environ['RANK']}").write_text(repr(time.time()))
dist.destroy_process_group()
