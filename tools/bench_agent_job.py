"""The job that tools/bench_agent.py starts under both launchers: a script as people write them for torchrun.

It notes when it was where, in one JSON file a rank and attempt; BENCH_OUT names the folder.
"""

import json
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

OUT = Path(os.environ["BENCH_OUT"])
NUM_STEPS = int(os.environ["BENCH_STEPS"])
KILL_AT = int(os.environ.get("BENCH_KILL_AT", "-1"))
RANK, ATTEMPT = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])


def unique_bytes() -> int:
    """Memory that no other process shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def main() -> None:
    assert all(
        (AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments)
    )  # as the real job imports
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    dist.barrier()
    noted = {"unique_bytes": unique_bytes()}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    model = torch.nn.parallel.DistributedDataParallel(transformers.LlamaForCausalLM(config))
    optimizer = torch.optim.AdamW(model.parameters())
    rows = torch.randint(512, (4, 32))
    noted["loop"] = time.time()
    (OUT / f"loop_{RANK}").touch()
    ends = []
    for step in range(NUM_STEPS):
        if step == KILL_AT and RANK == 1 and ATTEMPT == 0:
            (OUT / "killed").write_text(repr(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.monotonic())
        noted.setdefault("first_step", time.time())
    noted["ends"] = ends
    (OUT / f"rank_{RANK}_{ATTEMPT}.json").write_text(json.dumps(noted))
    dist.barrier()
    # DDP as the last owner of its group ends it with the GIL held, and waits for a thread that may want the GIL.
    del model
    dist.destroy_process_group()


main()
