"""`deepspeed.initialize` with a configuration file; rank 0 prints each loss and the digest of the weights."""

from __future__ import annotations

import argparse
from collections import defaultdict

import deepspeed
import torch
from figures import digest

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int, default=-1)
parser = deepspeed.add_config_arguments(parser)
options = parser.parse_args()

# DeepSpeed would otherwise compile its shared-memory collectives, which training does not call: half a minute, and for ever
# after a build that was killed.
deepspeed.ops.__compatible_ops__ = defaultdict(bool)
deepspeed.init_distributed("gloo")
torch.manual_seed(7)
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
rows = torch.utils.data.TensorDataset(torch.randn(96, 16), torch.randint(4, (96,)))
engine, _, loader, _ = deepspeed.initialize(
    args=options, model=model, model_parameters=model.parameters(), training_data=rows
)
for inputs, labels in loader:
    loss = torch.nn.functional.cross_entropy(engine(inputs), labels)
    engine.backward(loss)
    engine.step()
    mean = loss.detach().clone()
    deepspeed.comm.all_reduce(mean)
    if deepspeed.comm.get_rank() == 0:
        print(
            f"loss {mean.item() / deepspeed.comm.get_world_size()!r} norm {float(engine.get_global_grad_norm())!r}",
            flush=True,
        )
if deepspeed.comm.get_rank() == 0:
    print("weights", digest(engine.module.state_dict()))
engine.destroy()
deepspeed.comm.destroy_process_group()
