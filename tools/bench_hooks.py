"""What the hooks of a program cost a step, measured inside its ranks: every call of a hook is timed, over all steps.

    ascend-launch --nproc 2 --device cpu tools/bench_hooks.py loop
    ascend-launch --nproc 2 --device cpu tools/bench_hooks.py trainer

`loop` is a plain DDP loop with a DataLoader; `trainer` a Trainer that logs every 100 steps. Each rank prints a line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist

STEPS = 10_000
_us: list[float] = []
"""Of each call of a hook, by the wall clock: what it waits for the other rank and for a core, too."""
_cpu_us: list[float] = []
"""Of processor time of the thread that calls it."""


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


def add(started: tuple[float, float], less: tuple[float, float] = (0.0, 0.0)) -> None:
    wall, cpu = clocks()
    _us.append((wall - started[0] - less[0]) * 1e6)
    _cpu_us.append((cpu - started[1] - less[1]) * 1e6)


def timed(function: Any) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        started = clocks()
        try:
            return function(*args, **options)
        finally:
            add(started)

    return call


def is_hook(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("launcher.worker.hooks")


def time_optimizer_hooks() -> None:
    hooks = sys.modules["torch.optim.optimizer"]._global_optimizer_post_hooks
    for key, hook in hooks.items():
        if is_hook(hook):
            hooks[key] = timed(hook)


def time_batches() -> None:
    """The wrapped iterator calls torch's own: what lies between the two is ours."""
    iterator = sys.modules["torch.utils.data.dataloader"]._BaseDataLoaderIter
    wrapped, own_s = iterator.__next__, [(0.0, 0.0)]
    take = wrapped.__closure__[[*wrapped.__code__.co_freevars].index("take")]
    torch_next = take.cell_contents

    def inner(self: Any) -> Any:
        started = clocks()
        try:
            return torch_next(self)
        finally:
            wall, cpu = clocks()
            own_s[0] = wall - started[0], cpu - started[1]

    def outer(self: Any) -> Any:
        started = clocks()
        batch = wrapped(self)
        add(started, own_s[0])
        return batch

    take.cell_contents = inner
    iterator.__next__ = outer


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((8,), float(index % 7))}


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(x).pow(2).mean()}


def loop() -> None:
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(Model())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _, batch in zip(range(STEPS), torch.utils.data.DataLoader(Rows(), batch_size=2), strict=False):
        model(**batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()


def trainer() -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Time(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            for callback in made.callback_handler.callbacks:
                for name in [name for name in dir(callback) if name.startswith("on_") and is_hook(callback)]:
                    setattr(callback, name, timed(getattr(callback, name)))

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=2,
            logging_steps=100,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        made = Trainer(model=Model(), args=args, train_dataset=Rows(), callbacks=[Time()])
        made.train()


def main() -> None:
    time_optimizer_hooks()
    time_batches()
    started = time.perf_counter()
    {"loop": loop, "trainer": trainer}[sys.argv[1]]()
    seconds = time.perf_counter() - started
    ordered = sorted(_us)
    figures = {
        "rank": int(os.environ["RANK"]),
        "steps": STEPS,
        "calls": len(_us),
        "us_per_step": round(sum(_us) / STEPS, 1),
        "cpu_us_per_step": round(sum(_cpu_us) / STEPS, 1),
        "us_of_the_median_call": round(ordered[len(ordered) // 2], 1),
        "us_of_the_longest_call": round(ordered[-1], 1),
        "share_of_the_time": round(sum(_us) / 1e6 / seconds, 4),
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
