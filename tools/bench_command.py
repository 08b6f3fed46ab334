"""A command that starts torchrun somewhere inside, alone and behind `ascend-launch --`: from its start to its first step.

    python tools/bench_command.py --until "'loss'" --repeats 5 -- llamafactory-cli train sft.yaml

Both commands are looked up on PATH, so put the bin folder of the tool's environment first there, with ascend-launch
installed in it. The runs are interleaved, alone and behind us, and a ratio is the median over neighbouring pairs. The CPU
time is that of the whole command with all its processes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SIDES = ("ascend-launch --", "alone")


def run(command: list[str], until: str, log: Path) -> dict[str, float]:
    """One run's seconds: to the first line that holds `until`, to the end, and of CPU."""
    used = _cpu()
    started = time.monotonic()
    first = None
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},  # else a line appears when a buffer is full
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    with log.open("wb") as copy:
        for line in process.stdout:
            copy.write(line)
            if first is None and until.encode() in line:
                first = time.monotonic() - started
    code = process.wait()
    ended = time.monotonic() - started
    if code != 0 or first is None:
        sys.exit(f"{' '.join(command)} ended with {code}, {until!r} seen: {first is not None}; see {log}")
    with contextlib.suppress(ChildProcessError):
        while True:  # those whose parent has left without waiting for them
            os.wait()
    return {"first": first, "end": ended, "cpu": _cpu() - used}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--until", required=True, help="text of the line that is the first step's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--log", type=Path, default=Path("bench_command.log"), help="output of the newest run")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(args.repeats):
        for side in SIDES:
            prefix = side.split() if side != "alone" else []
            found[side].append(run([*prefix, *args.command], args.until, args.log))
            print(f"{side}: {found[side][-1]}", file=sys.stderr, flush=True)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {args.repeats} pairs, medians\n")
    print("| what | behind ascend-launch | alone | ratio | ratios of the pairs |")
    print("|---|---|---|---|---|")
    names = {"first": "command to first step, s", "end": "command to its end, s", "cpu": "CPU of the whole command, s"}
    for what, title in names.items():
        ours, theirs = ([figures[what] for figures in found[side]] for side in SIDES)
        ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        shown = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(
            f"| {title} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} | {statistics.median(ratios):.2f} | {shown} |"
        )


if __name__ == "__main__":
    main()
