"""The agent beside torchrun, on one script: start, memory, restart, step.

    python tools/bench_agent.py [--repeats 3] [--ranks 2 8] [--steps 200]

Runs of the two are interleaved, so that a busy machine slows both alike. Figures are medians; a ratio is of the medians,
but for the step, whose ratio is the median over neighbouring turns.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
JOB = Path(__file__).with_name("bench_agent_job.py")
RECIPE = f"""\
extends: {REPO}/recipes/tiny-cpu.yaml
script: {JOB.name}
parallel: {{precision: fp32, global_batch_size: 8}}
"""
TARGETS = {"start": "0.25 with 8", "memory": "0.1", "restart": "0.25", "step": "1.01"}
KILL_AT = 5
LAUNCHERS = ("ascend-launch", "torchrun")
TURN_S = 0.5
SETTLE_S = 0.1
"""Of a turn: a job that was stopped comes back with cold caches."""
TIMEOUT_S = 90
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
        started = time.time()
        command = argv(launcher, num_ranks, RESTARTS if kill else 0, folder)
        code = _run(command, _environment(folder, num_steps, kill=kill), folder.parent / "out.log")
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
        }


def steps(num_ranks: int, num_steps: int) -> dict[str, list[float]]:
    """Seconds of a step under each launcher: a median per turn, the turns of a round at the same place of both lists.

    Both jobs live at once and take turns of TURN_S: one runs while every process of the other, launcher and all, is
    stopped. So a machine that grows busy slows both alike, and what a launcher does beside its ranks counts for it alone.
    """
    turns: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as parent, contextlib.ExitStack() as stack:
        jobs: dict[str, psutil.Popen] = {}
        for launcher in LAUNCHERS:
            folder = Path(parent) / launcher / "out"
            folder.mkdir(parents=True)
            log = stack.enter_context((folder.parent / "out.log").open("w"))
            job = psutil.Popen(
                argv(launcher, num_ranks, 0, folder),
                env=_environment(folder, num_steps),
                cwd=REPO,
                stdout=log,
                stderr=log,
            )
            stack.callback(_end, job)
            jobs[launcher] = job
        deadline = time.monotonic() + TIMEOUT_S
        while any(len(list((Path(parent) / name / "out").glob("loop_*"))) < num_ranks for name in jobs):
            if time.monotonic() > deadline or any(job.poll() is not None for job in jobs.values()):
                sys.exit("a job did not come to its loop")
            time.sleep(0.1)
        for job in jobs.values():
            _all(job, "suspend")
        while all(job.poll() is None for job in jobs.values()):
            for launcher, job in jobs.items():
                _all(job, "resume")
                began = time.monotonic()
                time.sleep(TURN_S)
                turns.append((launcher, began, time.monotonic()))
                _all(job, "suspend")
        for job in jobs.values():
            _all(job, "resume")
            job.wait(TIMEOUT_S)
        ends = {name: json.loads((Path(parent) / name / "out" / "rank_0_0.json").read_text())["ends"] for name in jobs}
    found: dict[str, list[float]] = {name: [] for name in LAUNCHERS}
    for pair in zip(turns[::2], turns[1::2], strict=False):
        medians = {launcher: _median_step(ends[launcher], began, ended) for launcher, began, ended in pair}
        if None not in medians.values():
            for launcher, value in medians.items():
                found[launcher].append(value)
    return found


def _median_step(ends: list[float], began: float, ended: float) -> float | None:
    """Of the steps that ended within a turn; None for a turn of too few."""
    inside = [t for t in ends if began + SETTLE_S < t < ended]
    return statistics.median(b - a for a, b in itertools.pairwise(inside)) if len(inside) > 10 else None


def _all(job: psutil.Popen, what: str) -> None:
    """Suspend or resume a job, its launcher first or last, so that no launcher sees its ranks stopped."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [job, *job.children(recursive=True)]
        for process in family if what == "suspend" else reversed(family):
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, what)()


def _end(job: psutil.Popen) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [*job.children(recursive=True), job]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        job.wait()


def _environment(folder: Path, num_steps: int, *, kill: bool = False) -> dict[str, str]:
    env = {**os.environ, "BENCH_OUT": str(folder), "BENCH_STEPS": str(num_steps), "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": str(REPO), "GLOO_SOCKET_IFNAME": "lo"}
    return env | ({"BENCH_KILL_AT": str(KILL_AT)} if kill else {})


def _run(command: list[str], env: dict[str, str], log: Path) -> int | None:
    """The exit code; None where the job was ended for taking too long."""
    with log.open("w") as out:
        job = psutil.Popen(command, env=env, cwd=REPO, stdout=out, stderr=out, start_new_session=True)
        try:
            return job.wait(TIMEOUT_S)
        except psutil.TimeoutExpired:
            _end(job)
            return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--steps", type=int, default=2500)
    args = parser.parse_args()
    found: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    few = min(args.ranks)
    for _ in range(args.repeats):
        for num_ranks in args.ranks:
            for launcher in LAUNCHERS:
                figures = run(launcher, num_ranks, 3)
                if num_ranks == few:
                    figures |= run(launcher, num_ranks, 2 * KILL_AT, kill=True)
                for what, value in figures.items():
                    found[what, num_ranks, launcher].append(value)
                print(f"{launcher} x {num_ranks}: {figures}", file=sys.stderr, flush=True)
        # As many ranks as cores: more would time the scheduler.
        for launcher, turns in steps(few, args.steps).items():
            found["step", few, launcher] += turns
            print(
                f"{launcher} x {few}: {len(turns)} turns, {statistics.median(turns) * 1e3:.2f} ms a step",
                file=sys.stderr,
                flush=True,
            )
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
            ours, theirs = (statistics.median(found[what, num_ranks, name]) for name in LAUNCHERS)
            ratio = ours / theirs
            if what == "step":  # neighbours in time, so that the machine's other work leaves the ratio alone
                both = zip(*(found[what, num_ranks, name] for name in LAUNCHERS), strict=True)
                ratio = statistics.median(one / other for one, other in both)
            by = scale.get(what, 1)
            print(f"| {title} | {num_ranks} | {ours * by:.2f} | {theirs * by:.2f} | {ratio:.3f} | {TARGETS[what]} |")
    for launcher in LAUNCHERS:
        took, hung = found["restarts", few, launcher], len(found["hung", few, launcher])
        print(
            f"\nrestarts that {launcher} took: {[int(n) for n in took]}, hung for {TIMEOUT_S} s: {hung} of {args.repeats}"
        )


if __name__ == "__main__":
    main()
