"""Injects faults into real ranks again and again, under ascend-launch and under torchrun, and prints what came of it.

    python tools/chaos.py [--repeats 20] [--only slow_teardown] [--no-torchrun] [--restarts]

The job is recipes/tiny-cpu.yaml on two CPU ranks with a checkpoint every five steps; the fault strikes rank 1 at the
beginning of step 33. Without --restarts: who is blamed, and how long until the launcher has ended. With it: whether the
job finished, the steps done twice, and the seconds from the fault to the next training step. Both launchers run the same
rank program with the same fault, one after the other, in each round.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
INJECT = REPO / "tests/ranks/faults/inject"
STEP, RANK = 33, 1
FAULTS = ("raise", "slow_teardown", "kill", "exit", "stop", "kill_loader")
WORDS = ("training.save_strategy=steps", "training.save_steps=5")
TIMEOUT_S = 240


@dataclass
class Result:
    code: int | None
    """The launcher's exit code; None where it had to be killed."""
    blamed: int | None
    seconds: float | None
    """From the fault to the launcher's end, or with restarts to the next step."""
    lost_steps: int | None = None


def environment(folder: Path, fault: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_SIZE", "TORCHELASTIC"))}
    env |= {"PYTHONPATH": f"{INJECT}:{REPO}", "FAULT": f"{fault} {RANK} {STEP}", "FAULT_STAMP": str(folder / "stamp")}
    return env | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


def words(fault: str) -> list[str]:
    return [*WORDS, *(["training.dataloader_num_workers=1"] if fault == "kill_loader" else [])]


def run(argv: list[str], folder: Path, fault: str) -> tuple[int | None, str, float]:
    try:
        done = subprocess.run(
            argv, cwd=REPO, env=environment(folder, fault), capture_output=True, text=True, timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr, time.time()
    except subprocess.TimeoutExpired:
        subprocess.run(["pkill", "-9", "-f", str(folder)], check=False)
        return None, "", time.time()


def outcome(folder: Path, code: int | None, blamed: int | None, ended: float, restarts: bool) -> Result:
    stamp = folder / "stamp"
    struck = float(stamp.read_text()) if stamp.exists() else None
    if struck is None:
        return Result(code, blamed, None)
    if not restarts:
        return Result(code, blamed, ended - struck)
    steps = [json.loads(line) for line in (folder / "run/events.jsonl").read_text().splitlines()]
    steps = [e for e in steps if e["event"] in ("step", "log")]
    after = [e for e in steps if e["time"] > struck and e["step"] <= STEP]
    first = after[0] if after else None
    return Result(code, blamed, first and first["time"] - struck, first and STEP - first["step"] + 1)


def ours(folder: Path, fault: str, restarts: bool) -> Result:
    argv = [sys.executable, "-m", "launcher.cli", "--device", "cpu", "--nproc", "2", "--hang-timeout", "8"]
    argv += ["--run-dir", str(folder / "run"), *(["--max-restarts", "1"] if restarts else [])]
    code, _, ended = run([*argv, "recipes/tiny-cpu.yaml", *words(fault)], folder, fault)
    failure = folder / "run/failure.json"
    blamed = json.loads(failure.read_text())["rank"] if failure.exists() else None
    for line in (folder / "run/events.jsonl").read_text().splitlines():
        event = json.loads(line)
        blamed = event["rank"] if event["event"] == "restart" else blamed
    return outcome(folder, code, blamed, ended, restarts)


def torchrun(folder: Path, fault: str, restarts: bool) -> Result:
    render = [
        sys.executable,
        "-m",
        "launcher.cli",
        "render",
        "--device",
        "cpu",
        "--nproc",
        "2",
        "--out",
        str(folder / "run"),
    ]
    subprocess.run([*render, "recipes/tiny-cpu.yaml", *words(fault)], cwd=REPO, check=True, capture_output=True)
    argv = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    argv += [f"--max-restarts={int(restarts)}", "-m", "launcher.worker", "--run-dir", str(folder / "run")]
    code, text, ended = run(argv, folder, fault)
    root = re.search(r"Root Cause.*?rank\s*:\s*(\d+)", text, re.DOTALL)
    return outcome(folder, code, int(root[1]) if root else None, ended, restarts)


def show(fault: str, name: str, results: list[Result], restarts: bool) -> None:
    seconds = [r.seconds for r in results if r.seconds is not None]
    median = f"{statistics.median(seconds):.1f}" if seconds else "-"
    if restarts:
        finished = sum(r.code == 0 for r in results)
        lost = sorted({r.lost_steps for r in results if r.lost_steps is not None})
        print(
            f"{fault:<14} {name:<14} finished {finished}/{len(results)}  steps done twice {lost}  {median} s to the next step"
        )
        return
    right = sum(r.blamed == RANK for r in results)
    hung = sum(r.code is None for r in results)
    print(
        f"{fault:<14} {name:<14} right rank {right}/{len(results)}  {median} s to the end"
        + (f"  hung {hung}" if hung else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=FAULTS, action="append")
    parser.add_argument("--no-torchrun", action="store_true")
    parser.add_argument("--restarts", action="store_true")
    args = parser.parse_args()
    launchers = {"ascend-launch": ours, **({} if args.no_torchrun else {"torchrun": torchrun})}
    for fault in args.only or FAULTS:
        results: dict[str, list[Result]] = {name: [] for name in launchers}
        for _ in range(args.repeats):
            for name, launch in launchers.items():
                with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
                    results[name].append(launch(Path(folder), fault, args.restarts))
        for name, found in results.items():
            show(fault, name, found, args.restarts)


if __name__ == "__main__":
    main()
