"""Texts of an evaluation beside a plain loop around `generate` in one process: rows a second, rows a second of CPU, memory.

    python tools/bench_generation.py --rows 48 --rounds 3

Every side writes the answers of the same conversations with the same number of tokens, on one thread a process: `plain` goes over the
rows in order, eight at a time, padded on the left; ours is what a rank of `ascend-launch eval` does, by 1 rank and by 2. The sides
take turns; figures are medians. Seconds and CPU are of the writing alone, models are loaded by then; memory is the highest
resident set during it less that before (of the largest process).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_eval
import bench_job

REPO = Path(__file__).resolve().parent.parent
TINY = REPO / "recipes" / "tiny"
BATCH = 8
SIDES = {"plain": 0, "ours, 1 rank": 1, "ours, 2 ranks": 2}
"""And their ranks."""


def model(folder: Path, args: argparse.Namespace) -> Path:
    """Random weights of a small Llama with the tokenizer of the tiny recipes."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(0)
    config = AutoConfig.from_pretrained(TINY)
    config.update({"hidden_size": args.width, "num_hidden_layers": args.layers, "intermediate_size": 3 * args.width})
    config.update({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": args.width // 8})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


def recipe(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    rows = (TINY / "chats.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join((rows * (args.rows // len(rows) + 1))[: args.rows]) + "\n")
    data = {
        "path": str(TINY / "chats.jsonl"),
        "max_length": 256,
        "eval": {"sets": {"all": {"path": str(folder / "rows.jsonl")}}},
    }
    return {
        "model": {"name": str(folder / "model"), "task": "sft"},
        "data": data,
        "parallel": {"precision": "fp32", "eval_batch_size": BATCH, "strategy": "ddp", "global_batch_size": 8},
        "generation": {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens},
    }


def plain(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    writer = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    rows = [json.loads(line)["messages"][:-1] for line in (folder / "rows.jsonl").read_text().splitlines()]
    prompts = [tokenizer.apply_chat_template(row, add_generation_prompt=True, tokenize=False) for row in rows]

    def write() -> dict[str, Any]:
        texts = []
        for start in range(0, len(prompts), BATCH):
            batch = tokenizer(
                prompts[start : start + BATCH], padding=True, add_special_tokens=False, return_tensors="pt"
            )
            out = writer.generate(
                **{k: batch[k] for k in ("input_ids", "attention_mask")},
                max_new_tokens=args.tokens,
                min_new_tokens=args.tokens,
                do_sample=False,
            )
            texts += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return {"rows": len(texts)}

    return measured(write)


def measured(write: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    found = bench_eval.measured(lambda: {"eval_loss": 0, "eval_accuracy": 0, **write()})
    return {key: found[key] for key in ("seconds", "cpu", "peak")}


def rank(folder: Path) -> dict[str, Any]:
    """One of ours; its environment says which."""
    from launcher.rundir.paths import RunDir
    from launcher.worker import rank as of_rank
    from launcher.worker import start
    from launcher.worker.data import prepare
    from launcher.worker.engines import device
    from launcher.worker.runtime.events import Events
    from launcher.worker.runtime.heartbeat import Heart
    from launcher.worker.training.train import build

    run = RunDir(folder / "run")
    start.settle(run)
    plan = run.plan()
    of_rank.preload(plan)
    device.prepare_env(plan, os.environ)
    device.set_threads()
    own = device.Rank.from_env(os.environ)
    parts = (
        prepare.prepared_for(plan, run),
        Events(run.events_path, enabled=own.is_first),
        Heart(folder / f"beat{own.index}"),
    )
    trainer = build(plan, run, own, *parts)
    trainer.wrap_for_evaluation()
    trainer.accelerator.wait_for_everyone()
    return measured(lambda: {"written": trainer.write_texts() and 0})


def ours(folder: Path, ranks: int) -> dict[str, Any]:
    run = folder / "run"
    path = folder / "job.yaml"
    argv = [sys.executable, "-m", "launcher.cli", "render", "--nproc", str(ranks), "--device", "cpu", "--out", str(run)]
    env = {**os.environ, "PYTHONPATH": str(REPO), "ASCEND_LAUNCH_CACHE": str(folder / "cache")}
    subprocess.run([*argv, str(path)], check=True, stdout=subprocess.DEVNULL, cwd=REPO, env=env)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(ranks)}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", str(folder)],
            env={**env, "RANK": str(r), "LOCAL_RANK": str(r), "LOCAL_WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(ranks)
    ]
    ends = [one.communicate() for one in started]
    if any(one.returncode for one in started):
        sys.exit("\n".join(err[-2000:] for _, err in ends))
    found = [json.loads(out.splitlines()[-1]) for out, _ in ends]
    return {
        "seconds": max(one["seconds"] for one in found),
        "cpu": sum(one["cpu"] for one in found),
        "peak": max(one["peak"] for one in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=32, help="of each text")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank or args.plain:
        sys.path.insert(0, str(REPO))
        print(json.dumps(rank(args.rank) if args.rank else plain(args.plain, args)))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn in range(args.rounds):
        for side in SIDES if turn % 2 == 0 else reversed(SIDES):
            with bench_job.scratch() as folder:
                model(folder / "model", args)
                (folder / "job.yaml").write_text(json.dumps(recipe(folder, args)))
                if SIDES[side]:
                    found[side].append(ours(folder, SIDES[side]))
                    continue
                argv = [sys.executable, __file__, *sys.argv[1:], "--plain", str(folder)]
                done = subprocess.run(argv, capture_output=True, text=True, check=True)
                found[side].append(json.loads(done.stdout.splitlines()[-1]))
    show(found, args)


def show(found: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> None:
    print(
        f"{args.rows} rows of {args.tokens} new tokens, batches of {BATCH}, {args.layers} layers of {args.width}, {args.rounds} rounds; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {bench_job.machine()}\n"
    )
    print(
        "| side | seconds | CPU s | rows a second | rows a CPU second | beside plain | CPU beside plain | memory, MB |"
    )
    print("|---" * 8 + "|")
    base = {key: statistics.median(one[key] for one in found["plain"]) for key in ("seconds", "cpu")}
    for side, rounds in found.items():
        f = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(
            f"| {side} | {f['seconds']:.2f} | {f['cpu']:.2f} | {args.rows / f['seconds']:.2f} | {args.rows / f['cpu']:.2f} "
            f"| {base['seconds'] / f['seconds']:.2f} | {base['cpu'] / f['cpu']:.2f} | {f['peak'] / 1e6:.1f} |"
        )


if __name__ == "__main__":
    main()
