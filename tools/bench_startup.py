"""How fast a person gets an answer: --help, a refused recipe, a dry run, beside the stock launchers' --help.

    python tools/bench_startup.py [--repeats 10]

Every command is run in turn in each round, so that a busy machine slows all alike. Times are medians in seconds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def commands(folder: Path) -> dict[str, list[str]]:
    bad = folder / "bad.yaml"
    bad.write_text("model: {name: m, num_labels: five}\ndata: {path: json}\ntraining: {lerning_rate: 1}\n")
    ours = str(BIN / "ascend-launch")
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "ascend-launch --help": [ours, "--help"],
        "ascend-launch bad.yaml": [ours, str(bad)],
        "ascend-launch --dry-run": [
            ours,
            "--dry-run",
            "--nproc",
            "8",
            "--device",
            "npu",
            str(REPO / "recipes/yelp.yaml"),
        ],
        "torchrun --help": [str(BIN / "torchrun"), "--help"],
        "accelerate launch --help": [str(BIN / "accelerate"), "launch", "--help"],
        "deepspeed --help": [str(BIN / "deepspeed"), "--help"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        todo = commands(Path(folder))
        times: dict[str, list[float]] = {name: [] for name in todo}
        for _ in range(repeats):
            for name, argv in todo.items():
                started = time.perf_counter()
                subprocess.run(argv, capture_output=True, check=False)
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians["ascend-launch --help"]
    print(f"{'command':<28} {'median s':>9} {'x ours --help':>14}")
    for name, seconds in medians.items():
        print(f"{name:<28} {seconds:>9.3f} {seconds / ours:>14.1f}")


if __name__ == "__main__":
    main()
