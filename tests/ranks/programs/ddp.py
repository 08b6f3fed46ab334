"""DistributedDataParallel with a sampler and a loader whose workers are forked; rank 0 prints each loss and the weights' digest.

`--device npu` takes the card of LOCAL_RANK, over HCCL.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from figures import digest
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lr", type=float, default=0.05)
    options = parser.parse_args()
    device = torch.device(options.device, int(os.environ["LOCAL_RANK"]) if options.device != "cpu" else None)
    if device.type == "npu":
        torch.npu.set_device(device)
    dist.init_process_group("hccl" if device.type == "npu" else "gloo")

    torch.manual_seed(7)
    rows = TensorDataset(torch.randn(96, 16), torch.randint(4, (96,)))
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4)).to(device)
    sampler = DistributedSampler(rows, seed=3)
    loader = DataLoader(rows, batch_size=8, sampler=sampler, num_workers=1)
    model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for inputs, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(inputs.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = loss.detach()
            dist.all_reduce(mean)
            if dist.get_rank() == 0:
                print(f"loss {mean.item() / dist.get_world_size()!r}", flush=True)
    if dist.get_rank() == 0:
        print("device", device, "weights", digest(model.module.state_dict()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
