"""How far the launcher's own parts go: decided, rendered and met for many nodes, on one machine.

    python tools/scale.py [--nodes 1000] [--nproc 16] [--no-meeting]

Real: every function that is timed, the TCPStore, a connection a node, the first node's agent-side link with its thread.
Simulated: the other nodes' decisions (ten lines below) and their clocks; their boards are real, but many share a process
and take turns. On 2 cores that makes the others slow, and the first node, which competes with them, no faster than it
would be on a machine of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from launcher import network  # noqa: E402
from launcher.accelerators import detect  # noqa: E402
from launcher.accelerators.ascend import ranktable, ranktable_check  # noqa: E402
from launcher.accelerators.ascend.ports import BLOCKS  # noqa: E402
from launcher.clusters import environment  # noqa: E402
from launcher.clusters.kubernetes import document, manifest  # noqa: E402
from launcher.clusters.kubernetes.pod import Pod  # noqa: E402
from launcher.clusters.slurm import hostlist, script  # noqa: E402
from launcher.clusters.slurm.script import Allocation, Command  # noqa: E402
from launcher.machine.nodes import Nodes  # noqa: E402
from launcher.planning import decide, plan  # noqa: E402
from launcher.recipe import load  # noqa: E402
from launcher.render import files  # noqa: E402
from launcher.rundir.paths import RunDir  # noqa: E402

DIGESTS = dict.fromkeys(("train data", "eval data", "tokenizer", "model config", "model weights"), "0123456789ab")
ROWS: list[tuple[str, str, str]] = []


def row(what: str, seconds: float | None, size: str = "") -> None:
    ROWS.append((what, "" if seconds is None else f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}", size))
    print(f"{what:<72} {ROWS[-1][1]:>9} {size}", flush=True)


def timed(what: str, call: Callable[[], Any], size: Callable[[Any], str] = lambda value: "") -> Any:
    started = time.perf_counter()
    value = call()
    row(what, time.perf_counter() - started, size(value))
    return value


def a_plan(num_nodes: int, nproc: int, port: int) -> plan.Plan:
    loaded = load.load(REPO / "recipes/yelp.yaml", (f"parallel.global_batch_size={num_nodes * nproc}",), {})
    cluster = detect.assumed(nproc, Nodes(num_nodes, 0, f"127.0.0.1:{port}", source="scale.py"))
    return decide.make(loaded, cluster, plan.Options(nproc=nproc, supervision=plan.Supervision(join_timeout_s=600)))


def decided(num_nodes: int, nproc: int) -> None:
    hosts = f"rack[01-10]n[0001-{num_nodes // 10:04d}]"
    timed(f"expand Slurm's {hosts}", lambda: hostlist.hosts(hosts), lambda v: f"{len(v)} hosts")
    env = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "7",
        "SLURM_NODEID": "7",
        "SLURM_STEP_NUM_NODES": str(num_nodes),
        "SLURM_STEP_NODELIST": hosts,
        "SLURM_STEP_TASKS_PER_NODE": f"1(x{num_nodes})",
    }
    timed("recognise the step, and its first host", lambda: environment.find(env))
    pods = {
        "VC_TASK_INDEX": "7",
        "HOSTNAME": "job-worker-7",
        "VC_WORKER_HOSTS": ",".join(f"job-worker-{n}.job" for n in range(num_nodes)),
    }
    timed(
        "recognise a Volcano pod, by its place in the list",
        lambda: environment.find(pods),
        lambda v: f"variable of {len(pods['VC_WORKER_HOSTS']):,} B",
    )
    made = timed("load the recipe and make the plan", lambda: a_plan(num_nodes, nproc, 29400))
    with tempfile.TemporaryDirectory() as folder:
        loaded = load.load(REPO / "recipes/yelp.yaml", (), {})
        texts = timed(
            "render the run directory's files",
            lambda: files.texts(loaded, made, RunDir(Path(folder)), {}),
            lambda v: f"{sum(map(len, v.values())):,} B, plan.json {len(v['plan.json']):,} B",
        )
        assert texts
    command = Command(["-m", "launcher.cli", "yelp.yaml"], Path(sys.executable), REPO)
    timed(
        "render the sbatch script",
        lambda: script.script(made, Allocation("yelp", "out-%j"), command),
        lambda v: f"{len(v):,} B",
    )
    pod = Pod(image="registry/image:1")
    for kind in ("pytorchjob", "volcano"):
        timed(
            f"render the manifest of a {kind}",
            lambda kind=kind: document.text(manifest.manifest(kind, made, pod, "yelp", {}, ["yelp.yaml"])),
            lambda v: f"{len(v):,} B",
        )
    servers = [
        ranktable.Server(
            f"n{s}", tuple(ranktable.TableDevice(d, f"10.{s >> 8}.{s & 255}.{d + 1}") for d in range(nproc))
        )
        for s in range(num_nodes)
    ]
    table = timed(
        "make and check the rank table",
        lambda: ranktable.text(servers),
        lambda v: f"{len(v):,} B, {num_nodes * nproc:,} ranks",
    )
    timed("check it again, from its text", lambda: ranktable_check.check(table, num_nodes * nproc))
    from launcher.rundir.records import Failure
    from launcher.worker.runtime import failure

    records = [
        Failure.of(rank=r, time_ns=-r, weight=r % 3, what="", traceback="x" * 2000) for r in range(num_nodes * nproc)
    ]
    timed("find the first of so many failures", lambda: failure.first(records), lambda v: f"{len(records):,} records")


def others(nodes: range, port: int, introduction: dict[str, Any], pipe: Any) -> None:
    """The nodes of one process: a connection and a board each, which take turns."""
    from torch.distributed import TCPStore

    from launcher.worker.agent.nodes.board import TICK_S, NodeBoard

    class Board(NodeBoard):
        def _run(self) -> None:
            """No thread: `others` calls _exchange."""

    network.open_many_files()
    network.ask_no_name_server()  # as every agent does
    boards = []
    pipe.send("imported")
    assert pipe.recv() == "go"
    with ThreadPoolExecutor(64) as pool:
        stores = pool.map(lambda _: TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False), nodes)
        for node, store in zip(nodes, stores, strict=True):
            boards.append(Board(store, node, range(1), {**introduction, "pid": node}))
            assert boards[-1]._introduced()
    waits: list[float] = []
    heard: dict[int, float] = {}
    fails_at, due = None, dict.fromkeys(nodes, 0.0)
    while True:
        while pipe.poll():
            word = pipe.recv()
            if word == "end":
                pipe.send({"late_s": waits, "heard": heard})
                return
            fails_at = word
        now = time.monotonic()
        for board in boards:
            node = board._own
            if due[node] > now:
                continue
            if due[node]:
                waits.append(now - due[node])
            due[node] = now + TICK_S
            board._exchange()
            first = board.seen.get(0)
            state = first.state if first else {}
            if state.get("phase") == "joining":
                board.post(
                    ready=state["round"],
                    attempt=0,
                    trouble="",
                    report=None,
                    blocks=list(BLOCKS),
                    prepared=DIGESTS,
                )
            if fails_at == node and state.get("phase") == "running":
                board.post(trouble="failed")
                fails_at = None
                pipe.send(("failed", time.monotonic()))
            if state.get("trouble") == "failed" and node not in heard:
                heard[node] = time.monotonic()
        time.sleep(0.001)


@contextmanager
def simulated(num_nodes: int, port: int, introduction: dict[str, Any], processes: int) -> Iterator[list[Any]]:
    context = multiprocessing.get_context("spawn")
    pipes, running = [], []
    for part in range(processes):
        ours, theirs = context.Pipe()
        share = range(1 + part, num_nodes, processes)
        running.append(context.Process(target=others, args=(share, port, introduction, theirs), daemon=True))
        running[-1].start()
        pipes.append(ours)
    try:
        assert all(pipe.recv() == "imported" for pipe in pipes)
        yield pipes
    finally:
        for process in running:
            process.kill()
            process.join()


def met(num_nodes: int, nproc: int, processes: int) -> None:
    import torch.distributed  # before anything is timed

    from launcher.worker.agent.nodes.board import NodeBoard
    from launcher.worker.agent.nodes.link import Meeting
    from launcher.worker.agent.nodes.many import ManyNodes

    del torch

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = int(probe.getsockname()[1])
    made = a_plan(num_nodes, nproc, port)
    link = ManyNodes(made, 0, stop=lambda: None, on_stop=lambda number: None)
    cycles: list[float] = []
    exchange = NodeBoard._exchange

    def counted(self: Any) -> None:
        started = time.perf_counter()
        exchange(self)
        cycles.append(time.perf_counter() - started)

    NodeBoard._exchange = counted  # type: ignore[method-assign]
    row("a node's introduction", None, f"{len(json.dumps(link._introduction)):,} B")
    with simulated(num_nodes, port, link._introduction, processes) as pipes:
        started = time.monotonic()
        for pipe in pipes:
            pipe.send("go")
        link.meet()
        row(
            f"{num_nodes} nodes: connect, introduce themselves, and are compared by the first",
            time.monotonic() - started,
        )
        link.declare(DIGESTS)
        started, cpu = time.monotonic(), time.process_time()
        meeting = link.join(0, None)
        assert isinstance(meeting, Meeting), meeting
        row(f"{num_nodes} nodes: agree on an attempt", time.monotonic() - started)
        cycles.clear()
        started, cpu = time.monotonic(), time.process_time()
        while time.monotonic() - started < 10:
            link.pulse("")
            time.sleep(0.1)
        span = time.monotonic() - started
        row(
            f"{num_nodes} nodes: the first node reads all of them once, median",
            statistics.median(cycles),
            f"{len(cycles) / span:.1f} a second",
        )
        row(
            f"{num_nodes} nodes: processor of the first node's process, store included",
            None,
            f"{(time.process_time() - cpu) / span * 100:.0f} % of a core, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB with torch",
        )
        silent = max(time.monotonic() - seen.heard_s for seen in link._board.seen.values())  # type: ignore[union-attr]
        row(f"{num_nodes} nodes: the longest that one has not been heard of (lost after 15 s)", silent)
        pipes[-1].send(processes)  # one node of the last process fails
        failed_at, until = 0.0, time.monotonic() + 60
        while time.monotonic() < until:
            link.pulse("")
            if not failed_at and pipes[-1].poll():
                failed_at = pipes[-1].recv()[1]
            if failed_at and time.monotonic() > failed_at + 8:
                break
            time.sleep(0.02)
        late, heard = [], {}
        for pipe in pipes:
            pipe.send("end")
            said = pipe.recv()
            late += said["late_s"]
            heard |= said["heard"]
        row(
            f"{num_nodes} nodes: from one rank's failure to the last node that hears of it",
            max(heard.values()) - failed_at,
            f"{len(heard)} heard, median {statistics.median(heard.values()) - failed_at:.2f} s",
        )
        row("the simulated nodes' own lateness behind their 0.1 s, median", statistics.median(late))
    NodeBoard._exchange = exchange  # type: ignore[method-assign]


def ranks(numbers: range, pipe: Any) -> None:
    """The ranks of one process: a connection each, and what init_process_group does with it before any collective."""
    from torch.distributed import TCPStore

    network.open_many_files()
    network.ask_no_name_server()
    pipe.send("imported")
    port = pipe.recv()
    started = time.monotonic()
    stores = [TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False) for _ in numbers]
    pipe.send(time.monotonic() - started)
    pipe.recv()
    for rank, store in zip(numbers, stores, strict=True):
        store.set(f"address_{rank}", "x" * 128)
        store.add("came", 1)
    for store in stores:
        store.get("root")  # what rank 0 lays down for all: HCCL's root information has 4 KiB
    pipe.send("done")
    pipe.recv()
    os._exit(0)


def ranks_met(world_size: int, processes: int) -> None:
    from launcher.worker.agent.nodes.store import ranks_store

    network.open_many_files()
    store = ranks_store()
    store.set("root", "x" * 4096)
    context = multiprocessing.get_context("spawn")
    pipes, running = [], []
    for part in range(processes):
        ours, theirs = context.Pipe()
        running.append(context.Process(target=ranks, args=(range(part, world_size, processes), theirs), daemon=True))
        running[-1].start()
        pipes.append(ours)
    try:
        assert all(pipe.recv() == "imported" for pipe in pipes)
        started, cpu = time.monotonic(), time.process_time()
        for pipe in pipes:
            pipe.send(store.port)
        slowest = max(pipe.recv() for pipe in pipes)
        row(f"{world_size} ranks: connect to their store, one after another in {processes} processes", slowest)
        started = time.monotonic()
        for pipe in pipes:
            pipe.send("go")
        assert all(pipe.recv() == "done" for pipe in pipes)
        row(f"{world_size} ranks: set an address, count themselves, get 4 KiB", time.monotonic() - started)
        assert store.add("came", 0) == world_size
        row(
            f"{world_size} ranks: processor of the store's process for all that",
            time.process_time() - cpu,
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB with torch, {len(list(Path('/proc/self/fd').iterdir())):,} files open",
        )
        for pipe in pipes:
            pipe.send("end")
    finally:
        for process in running:
            process.kill()
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--nproc", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--no-meeting", action="store_true")
    options = parser.parse_args()
    print(f"{options.nodes} nodes x {options.nproc} ranks, {os.cpu_count()} cores; seconds\n")
    decided(options.nodes, options.nproc)
    if not options.no_meeting:
        met(options.nodes, options.nproc, options.processes)
        ranks_met(options.nodes * options.nproc, options.processes)
    sys.stdout.flush()
    os._exit(0) if threading.active_count() > 1 else None


if __name__ == "__main__":
    main()
