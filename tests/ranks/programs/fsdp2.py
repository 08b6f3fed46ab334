"""FSDP2: each layer and the whole sharded over all ranks; rank 0 prints each loss and the digest of the gathered weights."""

from __future__ import annotations

import torch
import torch.distributed as dist
from figures import digest
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo")
rank, world_size = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cpu", (world_size,))

torch.manual_seed(7)
model = torch.nn.Sequential(*(torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0) for _ in range(2)))
rows = torch.randn(6, world_size, 5, 4, 16)
for layer in model:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(6):
    batch = rows[step, rank]
    loss = torch.nn.functional.mse_loss(model(batch), batch.flip(0))
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    mean = loss.detach()
    dist.all_reduce(mean)
    norm = norm.full_tensor()
    if rank == 0:
        print(f"loss {mean.item() / world_size!r} norm {norm.item()!r}", flush=True)
weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
if rank == 0:
    print("weights", digest(weights))
dist.destroy_process_group()
