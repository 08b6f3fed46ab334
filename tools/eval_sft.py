"""The evaluation loss of 41 conversations at 1 to 4 ranks and several batch sizes, beside transformers' own, row by row.

    python tools/demo_assets.py
    python tools/eval_sft.py

The untrained first two layers of SmolLM2-135M, fp32, on CPU. The loss is the mean over all trained tokens, whatever the ranks
and the batch are; at any number of ranks it has the same bits. Peers take means of batches, which move with both (see
docs/lab/sft.md).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import bench_sft

from tests.support import launch

RANKS = (1, 2, 3, 4)
BATCHES = (1, 2, 8)


def recipe(folder: Path, model: Path) -> Path:
    held_out = bench_sft.FOLDER / "test.jsonl"
    values = {
        "model": {"name": str(model), "task": "sft"},
        "data": {
            "path": str(held_out),
            "eval": {"held": {"path": str(held_out)}},
            "max_length": bench_sft.MAX_LENGTH,
        },
        "parallel": {"precision": "fp32", "strategy": "ddp"},
        "report": False,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def evaluated(path: Path, model: Path, out: Path, ranks: int, *words: str) -> Path:
    argv = ["eval", path, "--checkpoint", model, "--device", "cpu", "--nproc", str(ranks), "--run-dir", out, *words]
    env = launch.environment(OMP_NUM_THREADS="1")
    done = launch.run(launch.command(*argv), env, timeout_s=600)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return out


def oracle(run: Path, model: Path) -> tuple[float, int]:
    """Mean of the losses of all trained tokens, each row by itself, in float64 throughout; and how many tokens."""
    import torch
    from datasets import load_from_disk
    from torch.nn import functional
    from transformers import AutoModelForCausalLM

    facts = json.loads((run / "data.json").read_text())["evals"]["held"]
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
    total, count = 0.0, 0
    for row in load_from_disk(facts["path"]):
        ids, use = torch.tensor(row["input_ids"]), torch.tensor(row["trained"]).bool()[1:]
        with torch.no_grad():
            logits = net(input_ids=ids[None]).logits[0, :-1][use]
        total += float(functional.cross_entropy(logits, ids[1:][use], reduction="sum"))
        count += int(use.sum())
    return total / count, count


def main() -> None:
    bench_sft.FOLDER.mkdir(parents=True, exist_ok=True)
    bench_sft.make_data(bench_sft.FOLDER)
    model = bench_sft.FOLDER / "model-cut2"
    if not (model / "config.json").exists():
        bench_sft.make_model("cut2", model)
    print("| ranks | batch | packing | evaluation loss | token accuracy |\n|---|---|---|---|---|")
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = recipe(folder, model)
        for ranks in RANKS:
            for batch, packing in [*((batch, False) for batch in BATCHES), (2, True)]:
                out = folder / f"{ranks}-{batch}-{packing}"
                words = (f"parallel.eval_batch_size={batch}", f"data.packing={str(packing).lower()}")
                final = json.loads((evaluated(path, model, out, ranks, *words) / "metrics.json").read_text())["final"]
                figures = final["eval_loss"], final["token_accuracy"]
                found.setdefault((batch, packing), []).append(figures)
                print(
                    f"| {ranks} | {batch} | {'yes' if packing else 'no'} | {figures[0]!r} | {figures[1]!r} |",
                    flush=True,
                )
        mean, count = oracle(out, model)
    launch.close()
    print(f"\ntransformers, each row by itself, float64: {mean!r}, the mean over {count:,} tokens")
    apart = max(abs(loss / mean - 1) for losses in found.values() for loss, _ in losses)
    same = all(one == many[0] for many in found.values() for one in many)
    print(f"furthest from it, relative: {apart:.1e}; the same bits at any number of ranks: {'yes' if same else 'no'}")


if __name__ == "__main__":
    main()
