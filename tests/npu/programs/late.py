"""Two ranks all-reduce four times; EMULATED_FAULTS decides which one does not come. Rank 0 prints how that ends for it."""

import os
import sys

import ranks
import torch
import torch.distributed as dist


def main(rank, world):
    try:
        torch.npu.set_device(rank)
        dist.init_process_group("hccl")
        for _ in range(4):
            x = torch.ones(3, device="npu")
            dist.all_reduce(x)
            x.cpu()
        print(f"rank {rank} is done", flush=True)
    except RuntimeError as error:
        print(f"rank {rank}: {error}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    # The rank that is stuck sleeps for an hour, so only rank 0 is waited for.
    port = ranks.free_port()
    children = []
    for rank in range(2):
        pid = os.fork()
        if not pid:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
            )
            main(rank, 2)
        children.append(pid)
    os.waitpid(children[0], 0)
    os.kill(children[1], 9)
    os.waitpid(children[1], 0)
    sys.exit(0)
