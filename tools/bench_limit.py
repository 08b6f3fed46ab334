"""Where the time of a training step goes, beside the time of its matrix products alone on this machine.

    python tools/bench_limit.py --model cut4 --steps 8

Trains our own recipe in this process under torch.profiler, then runs every matrix product that it saw again, by itself,
with the same shapes and as often: a step cannot take less than that on this machine.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from typing import Any

import bench_job

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
KINDS = {
    "attention": ("scaled_dot_product", "_flash_attention"),
    "optimizer": ("adam",),
    "embedding": ("embedding",),
    "zeroing": ("aten::zero_", "aten::fill_"),
    "gradient norm and clipping": ("_foreach_norm", "linalg_vector_norm", "_foreach_mul", "clip"),
}
EPOCHS, REPEATS = 3, 3


def profiled(trainer: Any, num_steps: int) -> tuple[Any, float]:
    """The profile of an epoch, and the seconds of one of its steps without a profiler.

    Three epochs of the same rows: one to warm up, one that is timed, one that is profiled.
    """
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    watch = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
    times: list[float] = []

    class Watch(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            times.append(time.perf_counter())
            if len(times) == EPOCHS:
                watch.start()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.stop()

    trainer.add_callback(Watch())
    trainer.args.eval_strategy = "no"
    trainer.train()
    return watch, (times[2] - times[1]) / num_steps


def alone(products: dict[tuple[Any, ...], int]) -> float:
    """Seconds of these products by themselves: (operator, shapes of its inputs) → how often."""
    import torch

    total = 0.0
    for (name, *shapes), count in products.items():
        inputs = [torch.randn(shape) for shape in shapes]
        call = {"aten::mm": torch.mm, "aten::bmm": torch.bmm, "aten::addmm": torch.addmm}[name]
        call(*inputs)
        best = min(_timed(call, inputs) for _ in range(REPEATS))
        total += best * count
    return total


def _timed(call: Any, inputs: list[Any]) -> float:
    began = time.perf_counter()
    call(*inputs)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench_job.add_job_options(parser)
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    args.train_rows, args.eval_rows, args.epochs = args.batch * args.steps, args.batch, EPOCHS
    with bench_job.scratch() as folder:
        trainer = bench_job.trainer_of(bench_job.recipe(bench_job.job(args)), folder)
        watch, step_s = profiled(trainer, args.steps)
    by_kind: dict[str, float] = defaultdict(float)
    by_name: dict[str, float] = defaultdict(float)
    products: dict[tuple[Any, ...], int] = defaultdict(int)
    flops = 0
    for event in watch.events():
        own = event.self_cpu_time_total / 1e6
        by_name[event.name] += own
        if event.name in PRODUCTS:
            shapes = [tuple(s) for s in event.input_shapes if s]
            products[(event.name, *shapes)] += 1
            rows, inner, columns = shapes[-2][-2], shapes[-2][-1], shapes[-1][-1]
            flops += 2 * rows * inner * columns * (shapes[-2][0] if event.name == "aten::bmm" else 1)
            by_kind["matrix products"] += own
        else:
            kind = next((k for k, parts in KINDS.items() if any(p in event.name for p in parts)), "everything else")
            by_kind[kind] += own
    limit_s = alone(products)
    whole = sum(by_kind.values())
    print(f"{args.model}, batch {args.batch}, {bench_job.lengths(args)} lengths; {bench_job.machine()}")
    print(
        f"one step takes {step_s:.3f} s; its matrix products alone {limit_s / args.steps:.3f} s"
        f" ({flops / limit_s / 1e9:.0f} GFLOP/s): {limit_s / args.steps / step_s:.0%} of it\n"
    )
    print("| what | s a step, profiled | share |\n|---|---|---|")
    for kind, seconds in sorted(by_kind.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {seconds / args.steps:.3f} | {seconds / whole:.0%} |")
    print("\n| operator | s a step | share |\n|---|---|---|")
    for name, seconds in sorted(by_name.items(), key=lambda item: -item[1])[:22]:
        print(f"| `{name}` | {seconds / args.steps:.3f} | {seconds / whole:.0%} |")


if __name__ == "__main__":
    main()
