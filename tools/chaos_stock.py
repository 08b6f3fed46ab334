"""The peer of tools/chaos.py: a script as people write them for torchrun, with the Trainer's own checkpoints and resume.

    torchrun --nproc-per-node 2 tools/chaos_stock.py OUTPUT_DIR

A Llama as small as recipes/tiny's on rows of its own, a checkpoint every five steps, resumed where there is one. The
fault of FAULT strikes as it does under ascend-launch. events.jsonl beside the checkpoints gets a line for each step.
"""

import json
import os
import sys
import time
from pathlib import Path

import sitecustomize as inject  # tests/ranks/faults/inject, which tools/chaos.py puts on PYTHONPATH
import torch
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

OUT = Path(sys.argv[1])
NUM_ROWS, NUM_IDS, VOCAB = 480, 24, 256


class Faults(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        inject.strike(kwargs["model"], state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            with (OUT / "events.jsonl").open("a") as events:
                events.write(json.dumps({"event": "step", "step": state.global_step, "time": time.time()}) + "\n")


def main() -> None:
    torch.manual_seed(0)
    ids = torch.randint(VOCAB, (NUM_ROWS, NUM_IDS))
    rows = [{"input_ids": row, "labels": int(row[0]) % 5} for row in ids]
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=5,
        pad_token_id=0,
    )
    args = TrainingArguments(
        str(OUT / "checkpoints"),
        use_cpu=True,
        per_device_train_batch_size=6,
        num_train_epochs=2,
        save_strategy="steps",
        save_steps=5,
        save_total_limit=2,
        dataloader_num_workers=int(os.environ.get("LOADER_WORKERS", "0")),
        disable_tqdm=True,
        report_to="none",
    )
    trainer = Trainer(LlamaForSequenceClassification(config), args, train_dataset=rows, callbacks=[Faults()])
    newest = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=newest)
    if trainer.is_world_process_zero():
        (OUT / "done").touch()


main()
