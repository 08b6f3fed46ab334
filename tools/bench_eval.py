"""Memory and time of an evaluation beside stock Trainer's, as the number of rows grows.

    python tools/bench_eval.py --task sequence-classification --rows 1000 4000 16000
    python tools/bench_eval.py --task causal-lm --model vocab128k --rows 32 64 --max-length 128

Each figure is of a process of its own, which loads model and data, and then evaluates: memory is the highest resident
set during the evaluation less that before it (Linux counts it: /proc/self/clear_refs, VmHWM). Stock is Trainer with the
collator that pads to the longest row of a batch, the same batch size and compute_metrics as its documentation has it;
`stock, argmax` gives it a preprocess_logits_for_metrics, the known cure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_job
import bench_texts

SIDES = ("ours", "stock", "stock, argmax")
BATCH = 8
ANSWERS = ["1", "2", "3", "4", "5"]


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def measured(evaluate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Peak memory and seconds of one call."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before, began, used = status("VmRSS"), time.perf_counter(), time.process_time()
    figures = evaluate()
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - used,
        "peak": status("VmHWM") - before,
        "loss": figures["eval_loss"],
        "accuracy": figures["eval_accuracy"],
    }


def recipe(args: argparse.Namespace, rows: int) -> dict[str, Any]:
    job = {
        "model": str(bench_texts.model(args.model)),
        "data_files": bench_texts.data("natural", 64, max(args.rows)),
        "train_rows": 64,
        "eval_rows": rows,
        **bench_job.ONE_EPOCH,
        "global_batch_size": BATCH,
    }
    asked = bench_job.recipe(job)
    asked["data"]["max_length"] = args.max_length
    asked["parallel"]["eval_batch_size"] = BATCH
    if args.task == "causal-lm":
        asked["model"]["task"] = "causal-lm"
        asked["data"] |= {"prompt": "{text}\nStars:", "answers": ANSWERS}
    return asked


def ours(asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    return measured(bench_job.trainer_of(asked, folder).evaluate)


def stock(asked: dict[str, Any], folder: Path, *, argmax: bool) -> dict[str, Any]:
    import numpy as np
    import torch
    from datasets import load_dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    torch.set_num_threads(1)
    data, name = asked["data"], asked["model"]["name"]
    is_lm = asked["model"]["task"] == "causal-lm"
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = load_dataset("parquet", data_files=data["data_files"], split="test")
    rows = rows.shuffle(seed=42).select(range(data["eval"]["limit"]))

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        if not is_lm:
            return tokenizer(batch["text"], truncation=True, max_length=data["max_length"])
        ends = [tokenizer(f"\nStars:{label + 1}", add_special_tokens=False)["input_ids"] for label in batch["label"]]
        texts = tokenizer(batch["text"], truncation=True, max_length=data["max_length"] - 8)["input_ids"]
        ids = [text + end for text, end in zip(texts, ends, strict=True)]
        return {"input_ids": ids, "labels": [[-100] * (len(row) - 1) + row[-1:] for row in ids]}

    rows = rows.map(encode, batched=True, remove_columns=["text", *(["label"] if is_lm else [])])
    kind = AutoModelForCausalLM if is_lm else AutoModelForSequenceClassification
    model = kind.from_pretrained(name, **({} if is_lm else {"num_labels": bench_texts.NUM_LABELS}))
    model.config.pad_token_id = tokenizer.pad_token_id

    def compute_metrics(found: Any) -> dict[str, float]:
        predicted = found.predictions if argmax else np.argmax(found.predictions, axis=-1)
        if is_lm:
            predicted, labels = predicted[:, :-1], found.label_ids[:, 1:]
            return {"accuracy": float((predicted == labels)[labels != -100].mean())}
        return {"accuracy": float((predicted == found.label_ids).mean())}

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder), per_device_eval_batch_size=BATCH, use_cpu=True, report_to="none", disable_tqdm=True
        ),
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer) if is_lm else DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=(lambda logits, labels: logits.argmax(-1)) if argmax else None,
    )
    return measured(trainer.evaluate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("sequence-classification", "causal-lm"), default="sequence-classification")
    parser.add_argument("--model", default="toy")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--sides", nargs="+", default=SIDES)
    parser.add_argument("--rounds", type=int, default=1, help="sides take turns; figures are medians")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "ROWS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        side, rows = args.one[0], int(args.one[1])
        asked = recipe(args, rows)
        with bench_job.scratch() as folder:
            os.environ["HF_DATASETS_CACHE"] = str(folder / "datasets")
            found = ours(asked, folder) if side == "ours" else stock(asked, folder, argmax=side != "stock")
        print(json.dumps(found))
        return
    recipe(args, max(args.rows))  # makes data and model, once
    print(
        f"{args.task}, {args.model}, at most {args.max_length} tokens, batch {BATCH}, one thread; {bench_job.machine()}\n"
    )
    print("| side | rows | rounds | peak memory of the evaluation, MB | seconds | CPU s | loss | accuracy |")
    print("|---" * 8 + "|")
    for rows in args.rows:
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
        for turn in range(args.rounds):
            for side in args.sides if turn % 2 == 0 else reversed(args.sides):
                argv = [sys.executable, __file__, *sys.argv[1:], "--one", side, str(rows)]
                done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
                if done.returncode:
                    sys.exit(f"{side} with {rows} rows ended with {done.returncode}:\n{done.stderr[-3000:]}")
                found[side].append(json.loads(done.stdout.splitlines()[-1]))
        for side, rounds in found.items():
            f = {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}
            print(
                f"| {side} | {rows} | {len(rounds)} | {f['peak'] / 1e6:.1f} | {f['seconds']:.2f} | {f['cpu']:.2f} |"
                f" {f['loss']:.4f} | {f['accuracy']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
