"""The agent beside torchrun, on one script: start, memory, restart, step.

    python tools/bench_agent.py [--repeats 3] [--ranks 2 8] [--steps 200]

Runs of the two are interleaved, so that a busy machine slows both alike. Figures are medians; a ratio is of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
JOB = Path(__file__).with_name("bench_agent_job.py")
RECIPE = f"""\
extends: {REPO}/recipes/tiny-cpu.yaml
script: {JOB.name}
parallel: {{precision: fp32, global_batch_size: 8}}
"""
TARGETS = {"start": 0.25, "memory": 0.1, "restart": 0.25, "step": 1.01}
KILL_AT = 5
TIMEOUT_S = 120
"""A restart that takes longer counts as a hang."""
RESTARTS = 3
"""torchrun often needs two: its second attempt finds the first one's addresses in the store, and fails."""


def argv(launcher: str, num_ranks: int, restarts: int, folder: Path) -> list[str]:
    if launcher == "torchrun":
        options = ["--standalone", "--nproc-per-node", str(num_ranks), "--max-restarts", str(restarts)]
        return [str(BIN / "torchrun"), *options, str(JOB)]
    recipe = folder.parent / "bench.yaml"
    (folder.parent / JOB.name).write_text(JOB.read_text())
    recipe.write_text(RECIPE)
    options = [
        "--device",
        "cpu",
        "--nproc",
        str(num_ranks),
        "--max-restarts",
        str(restarts),
        "--run-dir",
        str(folder / "run"),
    ]
    return [sys.executable, "-m", "launcher.cli", *options, str(recipe)]


def run(launcher: str, num_ranks: int, num_steps: int, *, kill: bool = False) -> dict[str, float]:
    """One job; what its ranks noted, in seconds and bytes."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "out"
        folder.mkdir()
        env = {**os.environ, "BENCH_OUT": str(folder), "BENCH_STEPS": str(num_steps), "OMP_NUM_THREADS": "1"}
        env |= {
            "PYTHONPATH": str(REPO),
            "GLOO_SOCKET_IFNAME": "lo",
            **({"BENCH_KILL_AT": str(KILL_AT)} if kill else {}),
        }
        started = time.time()
        command = argv(launcher, num_ranks, RESTARTS if kill else 0, folder)
        code = _run(command, env, folder.parent / "out.log")
        if kill and code is None:
            return {"hung": 1}
        if code != 0:
            sys.exit(f"{launcher} with {num_ranks} ranks ended with {code}:\n{(folder.parent / 'out.log').read_text()}")
        last = max(int(p.stem.rpartition("_")[2]) for p in folder.glob("rank_*.json"))
        noted = [json.loads((folder / f"rank_{r}_{last}.json").read_text()) for r in range(num_ranks)]
        if kill:
            killed = float((folder / "killed").read_text())
            return {"restart": max(n["first_step"] for n in noted) - killed, "restarts": last}
        return {
            "start": max(n["loop"] for n in noted) - started,
            "memory": statistics.median(n["unique_bytes"] for n in noted),
            "step": statistics.median(n["step"] for n in noted),
        }


def _run(command: list[str], env: dict[str, str], log: Path) -> int | None:
    """The exit code; None where the job was ended for taking too long."""
    with log.open("w") as out:
        job = subprocess.Popen(command, env=env, cwd=REPO, stdout=out, stderr=out, start_new_session=True)
        try:
            return job.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            import psutil

            for process in [*psutil.Process(job.pid).children(recursive=True), job]:
                process.kill()
            job.wait()
            return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    found: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    few = min(args.ranks)
    for _ in range(args.repeats):
        for num_ranks in args.ranks:
            for launcher in ("ascend-launch", "torchrun"):
                figures = run(launcher, num_ranks, args.steps if num_ranks == few else 3)
                if num_ranks == few:
                    figures |= run(launcher, num_ranks, 2 * KILL_AT, kill=True)
                else:
                    del figures["step"]  # too many ranks for the cores: it would time the scheduler
                for what, value in figures.items():
                    found[what, num_ranks, launcher].append(value)
                print(f"{launcher} x {num_ranks}: {figures}", file=sys.stderr, flush=True)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {args.repeats} runs of each, medians\n")
    print("| what | ranks | ascend-launch | torchrun | ratio | target |")
    print("|---|---|---|---|---|---|")
    names = {
        "start": "command to all ranks in the loop, s",
        "memory": "unique memory of a rank before the model, MB",
        "restart": "killed rank to the next step of all ranks, s",
        "step": "one step, ms",
    }
    scale = {"memory": 1e-6, "step": 1e3}
    for what, title in names.items():
        for num_ranks in args.ranks:
            if (what, num_ranks, "torchrun") not in found:
                continue
            ours, theirs = (statistics.median(found[what, num_ranks, name]) for name in ("ascend-launch", "torchrun"))
            by = scale.get(what, 1)
            print(
                f"| {title} | {num_ranks} | {ours * by:.2f} | {theirs * by:.2f} | {ours / theirs:.3f} | {TARGETS[what]} |"
            )
    for launcher in ("ascend-launch", "torchrun"):
        took, hung = found["restarts", few, launcher], len(found["hung", few, launcher])
        print(
            f"\nrestarts that {launcher} took: {[int(n) for n in took]}, hung for {TIMEOUT_S} s: {hung} of {args.repeats}"
        )


if __name__ == "__main__":
    main()
