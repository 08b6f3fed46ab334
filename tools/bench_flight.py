#!/usr/bin/env python3
"""What it costs that collectives are recorded: tools/bench_flight.py [--device cpu|npu] [--repeats N]

Processor time of the calling thread for one all_reduce in a group of one rank, where nothing waits for anybody, in processes with
the recorder and without, in turns; the least of many rounds, since other work can only add to it. And how long it takes to leave
a full record. On a card: run it by tools/emulated_cann/run, or on a machine that has one.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
CALLS, ROUNDS, DEPTH = 2500, 8, 30
"""Calls of a round, rounds of a process, and Python frames above each call: a Trainer's step has about as many."""


def deep(frames, function):
    return function() if frames == 0 else deep(frames - 1, function)


def child(device):
    """Seconds of one process: for a call, and for leaving the record of CALLS of them."""
    import torch
    import torch.distributed as dist

    from launcher.worker.runtime import flight

    if device == "npu":
        torch.npu.set_device(0)
    dist.init_process_group("hccl" if device == "npu" else "gloo")
    x = torch.ones(3, device=device)

    def calls():
        for _ in range(CALLS):
            dist.all_reduce(x)

    rounds = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        deep(DEPTH, calls)
        rounds.append(time.thread_time() - started)
        if device == "npu":
            torch.npu.synchronize()
    started = time.perf_counter()
    trace = flight.taken()
    taken_s = time.perf_counter() - started
    text = json.dumps(trace.to_json())
    print(
        json.dumps({"call_s": min(rounds) / CALLS, "taken_s": taken_s, "calls": len(trace.calls), "bytes": len(text)})
    )


def run(device, size):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = os.environ | {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env |= {"OMP_NUM_THREADS": "1", "TORCH_FR_BUFFER_SIZE": str(size), "PYTHONPATH": f"{TOOLS.parent}:{TOOLS}"}
    code = f"""
import os
import torch
os.environ["TORCH_HCCL_TRACE_BUFFER_SIZE"] = {str(size)!r}  # after torch_npu's import, as in a rank
import bench_flight; bench_flight.child({device!r})
"""
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "npu"], default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = [[run(args.device, size) for size in (0, 2000)] for _ in range(args.repeats)]
    without, recorded = ([row[i]["call_s"] * 1e6 for row in rows] for i in (0, 1))
    print(f"{args.device}: a call, least of all: {min(without):.2f} us without, {min(recorded):.2f} us recorded")
    difference = statistics.median(b - a for a, b in zip(without, recorded, strict=True))
    print(f"{args.device}: median of the differences: {difference:+.2f} us")
    taken = [row[1] for row in rows]
    print(
        f"{args.device}: leaving a record of {taken[0]['calls']} calls: {statistics.median(t['taken_s'] for t in taken):.3f} s, "
        f"{taken[0]['bytes'] / 1e3:.0f} kB"
    )


if __name__ == "__main__":
    main()
