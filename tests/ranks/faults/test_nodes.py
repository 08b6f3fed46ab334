"""Two nodes: they train as one, and whatever befalls one of them ends or restarts both, soon and by its name.

Where nothing depends on the network, both run on this one; else each has a network namespace of its own.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import netns
from tests.ranks.faults.conftest import REPO, Running
from tests.support.run import Run, timeless

pytestmark = pytest.mark.ranks
SAVES = ("training.save_strategy=steps", "training.save_steps=5")
LONG = "training.num_train_epochs=300"
SOON_S = 15.0
"""For an end that both nodes hear of: its ranks get 5 seconds to unwind, and the machine may be busy."""
LOST_S = 30.0
"""For an end that nobody tells: a node is lost after 15 seconds of silence."""


class Nodes:
    """One job on two nodes."""

    def __init__(
        self,
        folder: Path,
        words: tuple[str, ...],
        env: dict[str, str],
        *,
        cable: netns.Lan | None,
        port: int,
        only: int | None,
        own: dict[int, tuple[str, ...]],
        cwd: dict[int, Path],
        endpoint: str = "",
    ) -> None:
        self.dir = folder
        host = cable.addresses[0] if cable else "127.0.0.1"
        options = [w for w in words if w.startswith("--")]
        overrides = [w for w in words if not w.startswith("--")]
        self.nodes: dict[int, Running] = {}
        argv = (
            "--nproc=1",
            "--nnodes=2",
            f"--rdzv-endpoint={endpoint or f'{host}:{port}'}",
            *options,
            "recipes/tiny-cpu.yaml",
            *overrides,
        )
        self._make = lambda node: Running(
            folder,
            (f"--node-rank={node}", *argv, *own.get(node, ())),
            env,
            cable.prefix(node) if cable else [],
            cwd.get(node, REPO),
        )
        for node in (0, 1) if only is None else (only,):
            self.start(node)

    def start(self, node: int) -> None:
        """Start a node's launcher; again, where it was killed."""
        self.nodes[node] = self._make(node)
        self.nodes[node].dir = self.dir / "node_1" if node else self.dir

    def __getitem__(self, node: int) -> Running:
        return self.nodes[node]

    def wait(self) -> tuple[int, ...]:
        """Both exit codes."""
        return tuple(node.wait() for node in self.nodes.values())

    def until_step(self, step: int) -> None:
        self[0].until("step", lambda event: event["step"] >= step)

    def of_node(self, node: int) -> list[psutil.Process]:
        """A launcher, its agent, and what that started."""
        one = psutil.Process(self[node].process.pid)
        return [one, *one.children(recursive=True)]

    def are_gone(self, within_s: float) -> bool:
        return Run(self.dir).gone(within_s)


@pytest.fixture
def cable() -> Iterator[netns.Lan]:
    why = netns.missing()
    if why:
        pytest.skip(why)
    with netns.Lan(2) as pair:
        yield pair


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory, shared_cache: str) -> Iterator[Callable[..., Nodes]]:
    """Start tiny-cpu on two nodes; whatever is left is killed at the end of the test."""
    jobs: list[Nodes] = []

    def start(
        *words: str,
        fault: str = "",
        cable: netns.Lan | None = None,
        port: int | None = None,
        only: int | None = None,
        own: dict[int, tuple[str, ...]] | None = None,
        cwd: dict[int, Path] | None = None,
        endpoint: str = "",
        secret: str = "",
    ) -> Nodes:
        # One thread a rank: the nodes share this machine's cores.
        env = {"ASCEND_LAUNCH_CACHE": shared_cache, "OMP_NUM_THREADS": "1", **({"FAULT": fault} if fault else {})}
        env |= {"ASCEND_LAUNCH_SECRET": secret} if secret else {}
        folder = tmp_path_factory.mktemp("nodes")
        jobs.append(
            Nodes(
                folder,
                words,
                env,
                cable=cable,
                port=port or _free_port(),
                only=only,
                own=own or {},
                cwd=cwd or {},
                endpoint=endpoint,
            )
        )
        return jobs[-1]

    yield start
    for job in jobs:
        for process in Run(job.dir).leftovers():
            process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _account(job: Nodes, node: int) -> dict[str, Any]:
    """failure.json, less what the launcher found in that node's own logs."""
    return {k: v for k, v in job[node].failure.items() if k != "explanation"}


STRANGER = """
import json, sys, time
from datetime import timedelta
from torch.distributed import TCPStore

forged = {"beat_ns": 1 << 62, "stop": 15, "trouble": "failed", "left": True, "report": {"round": None, "found": {"what": "x", "exit_code": 1}},
          "verdict": {"round": None, "found": {"what": "x"}, "again": False}}
while True:
    try:
        store = TCPStore("::1", int(sys.argv[1]), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=1))
        break
    except RuntimeError:
        time.sleep(0.1)
while True:
    for key in ("node_0", "node_1", "came_0", "came_1", "job", *store.list_keys()):
        for word in (b"\\xff\\xfe{", json.dumps(forged)):
            store.set(key, word)
    time.sleep(0.5)
"""
"""Whoever reaches the port where the nodes meet, and knows how they write."""


# -- meeting ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_nodes_train_as_one_node_with_two_ranks(
    nodes: Callable[..., Nodes], launch: Callable[..., Running], cable: netns.Lan
):
    """The same figures, predictions and weights, over a network that only the two share."""
    one = launch("--nproc=2", OMP_NUM_THREADS="1")
    assert 0 == one.wait(), one.err
    two = nodes(cable=cable)

    assert (0, 0) == two.wait(), two[0].err + two[1].err
    assert timeless(one.metrics["epochs"]) == timeless(two[0].metrics["epochs"])
    for name in ("predictions.jsonl", "model/model.safetensors"):
        assert (one.dir / name).read_bytes() == (two.dir / name).read_bytes()
    assert not (two[1].dir / "metrics.json").exists()


@pytest.mark.slow
def test_another_plan_is_refused_by_both_with_what_differs(nodes: Callable[..., Nodes]):
    """Each names the other node, the key and both values."""
    job = nodes(own={1: ("training.learning_rate=1e-3",)})

    assert (2, 2) == job.wait()
    for node, other in ((0, 1), (1, 0)):
        what = job[node].failure["what"]
        assert f"node {other} (" in what, what
        assert "learning_rate is " in what
        assert what in job[node].err


def copied(folder: Path, change: str) -> Path:
    """A working directory with a copy of the launcher and of the toy, in which one file is changed."""
    shutil.copytree(REPO / "launcher", folder / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    for data in ("recipes", "accelerate_configs"):
        shutil.copytree(REPO / data, folder / data)
    path = folder / change
    text = path.read_text()
    if path.suffix == ".jsonl":
        path.write_text(text.replace(" the ", " teh ", 1))
    elif path.name == "tokenizer.json":
        tokenizer = json.loads(text)
        tokenizer["normalizer"] = {"type": "Lowercase"}
        path.write_text(json.dumps(tokenizer))
    else:
        path.write_text(text + "\n# changed on one node\n")
    assert text != path.read_text()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("launcher/planning/plan.py", "runs other code than node 0: ascend-launch is '"),
        ("recipes/tiny/train.jsonl", "prepared something else than node 0: train data is '"),
        ("recipes/tiny/tokenizer.json", "prepared something else than node 0: tokenizer is '"),
    ],
)
def test_what_differs_on_a_node_is_named(nodes: Callable[..., Nodes], tmp_path: Path, change: str, what: str):
    """Paths and plans are equal here, and the files behind them are not."""
    job = nodes(cwd={1: copied(tmp_path, change)})

    assert (2, 2) == job.wait()
    found = job[0].failure["what"]
    assert f"node 1 ({socket.gethostname()}) {what}" in found
    assert 1 == found.count(" there and ")
    assert "same" in job[1].err
    assert not list(job.dir.rglob("rank_*.log"))


FORWARD = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    b.close()
while True:
    one, _ = listener.accept()
    try:
        other = socket.create_connection((sys.argv[3], int(sys.argv[2])))
    except ConnectionRefusedError:
        print("nobody behind it", flush=True)
        one.close()
        continue
    for pair in ((one, other), (other, one)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


@pytest.mark.slow
def test_an_endpoint_may_be_a_service_that_forwards_one_port(nodes: Callable[..., Nodes], cable: netns.Lan):
    """As MindCluster's MASTER_ADDR: the first node does not own the address, and no other port of it leads anywhere.

    A service takes connections before there is anyone behind it, and drops them.
    """
    port = _free_port()
    forward = subprocess.Popen(
        [*cable.prefix(1), sys.executable, "-c", FORWARD, cable.addresses[1], str(port), cable.addresses[0]],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert forward.stdout is not None
        assert "ready" == forward.stdout.readline().strip()
        job = nodes(cable=cable, endpoint=f"{cable.addresses[1]}:{port}", only=1)
        assert "nobody behind it" == forward.stdout.readline().strip()
        job.start(0)

        assert (0, 0) == job.wait(), job[0].err + job[1].err
    finally:
        forward.kill()
        forward.wait()


@pytest.mark.slow
def test_nodes_meet_over_ipv6_and_no_stranger_ends_their_job(nodes: Callable[..., Nodes]):
    """An address in brackets, all the way to the ranks. Meanwhile somebody writes there, as often as he can: rubbish, and
    that a node has failed. It is noted once, and the secret is in no file and no output."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    port = _free_port()
    stranger = subprocess.Popen([sys.executable, "-c", STRANGER, str(port)])
    try:
        job = nodes(endpoint=f"[::1]:{port}", secret="s3" * 32)
        codes = job.wait()
    finally:
        stranger.kill()
        stranger.wait()

    assert (0, 0) == codes, job[0].err + job[1].err
    notes = [event["text"] for event in job[0].events("note")]
    assert 1 == sum("somebody else writes to [::1]" in text for text in notes), notes
    assert not any("export one ASCEND_LAUNCH_SECRET" in text for text in notes)
    written = [path for path in job.dir.rglob("*") if path.is_file() and b"s3" * 32 in path.read_bytes()]
    assert [] == written
    assert "s3" * 32 not in "".join(job[n].out + job[n].err for n in (0, 1))


@pytest.mark.slow
def test_a_taken_port_is_a_mistake_with_a_remedy(nodes: Callable[..., Nodes]):
    """Nobody else could find the job at another one."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        job = nodes(port=port, only=0)

        assert (2,) == job.wait()
    assert f"port {port} is taken on this" in job[0].err
    assert "another port on all nodes" in job[0].err


@pytest.mark.slow
@pytest.mark.parametrize(("node", "what"), [(0, "node 1 of 2 did not come to"), (1, "node 1 found no first node at")])
def test_a_node_that_never_comes_is_named(nodes: Callable[..., Nodes], node: int, what: str):
    """Waiting has an end, on either side."""
    job = nodes("--join-timeout=3", only=node)

    assert (1,) == job.wait()
    assert what in job[node].failure["what"]
    assert "within 3 s" in job[node].err


# -- a rank fails ------------------------------------------------------------------------------------------------------


def test_a_rank_that_raises_ends_all_nodes_with_one_account_of_it(nodes: Callable[..., Nodes]):
    """Its own traceback, rank and node, on the node where nothing is wrong too."""
    job = nodes(LONG, fault="raise 1 7")

    assert (1, 1) == job.wait()
    assert _account(job, 0) == _account(job, 1)
    found = job[0].failure
    assert (1, 1, socket.gethostname(), "ValueError") == (
        found["rank"],
        found["node_rank"],
        found["host"],
        found["type"],
    )
    assert "ate the homework" in job[0].err
    assert "in on_step_begin" in found["traceback"]
    assert job.are_gone(2)


def test_a_killed_rank_restarts_all_nodes_and_nothing_is_lost(
    nodes: Callable[..., Nodes], launch: Callable[..., Running]
):
    """Both go on from the newest checkpoint, to the figures of a run that nothing befell."""
    whole = launch("--nproc=2", OMP_NUM_THREADS="1")
    assert 0 == whole.wait(), whole.err
    job = nodes("--max-restarts=1", *SAVES, fault="kill 1 33")

    assert (0, 0) == job.wait(), job[0].err + job[1].err
    (restart,) = job[0].events("restart")
    assert 1 == restart["rank"]
    assert "SIGKILL" in restart["what"]
    assert timeless(whole.metrics["epochs"]) == timeless(job[0].metrics["epochs"])
    assert (job[1].dir / "attempt_1" / "done_1").exists()


@pytest.mark.slow
def test_a_mistake_of_the_user_is_one_on_all_nodes_and_not_tried_again(nodes: Callable[..., Nodes]):
    """Exit code 2 everywhere."""
    job = nodes("--max-restarts=3", fault="mistake 1 7")

    assert (2, 2) == job.wait()
    assert "asks for the moon" in job[0].err
    assert "asks for the moon" in job[1].err
    assert [] == job[0].events("restart")


@pytest.mark.slow
def test_a_rank_that_stands_still_is_named_on_the_other_node_too(nodes: Callable[..., Nodes]):
    """The first node's rank waits for it, and is not blamed for that."""
    job = nodes("--hang-timeout=8", fault="stop 1 7")

    assert (1, 1) == job.wait()
    assert _account(job, 0) == _account(job, 1)
    assert (1, "Stalled") == (job[0].failure["rank"], job[0].failure["type"])
    assert "is stopped" in job[0].err
    assert job.are_gone(2)


# -- a node fails --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_that_is_killed_whole_is_named_by_the_other(nodes: Callable[..., Nodes], victim: int):
    """Launcher, agent and ranks at once, as by a power cut."""
    job = nodes(LONG)
    job.until_step(5)
    for process in job.of_node(victim):
        process.kill()
    killed_s = time.monotonic()
    other = job[1 - victim]

    assert 1 == other.wait()
    assert LOST_S > time.monotonic() - killed_s
    assert ("NodeLost", victim) == (other.failure["type"], other.failure["node_rank"])
    assert f"node {victim} ({socket.gethostname()}) is lost" in other.err
    assert job.are_gone(2)


@pytest.mark.slow
def test_a_cut_link_ends_both_sides(nodes: Callable[..., Nodes], cable: netns.Lan):
    """Neither is told anything; each says that the other is lost, and leaves nothing running."""
    job = nodes(LONG, cable=cable)
    job.until_step(5)
    cable.cut(1)
    cut_s = time.monotonic()

    assert (1, 1) == job.wait()
    assert LOST_S > time.monotonic() - cut_s
    for node in (0, 1):
        assert ("NodeLost", 1 - node) == (job[node].failure["type"], job[node].failure["node_rank"]), json.dumps(
            job[node].failure
        )
    assert job.are_gone(2)


@pytest.mark.slow
def test_a_node_that_is_there_already_is_not_taken_twice(nodes: Callable[..., Nodes]):
    """A second launcher with its number is told by whom it is taken; the job does not notice."""
    port = _free_port()
    job = nodes(LONG, port=port, fault="drag 0 1")
    job.until_step(2)
    second = nodes(LONG, port=port, only=1)

    assert (2,) == second.wait()
    assert f"{socket.gethostname()} is node 1 of the job at 127.0.0.1:{port} already" in second[1].err
    assert "a --node-rank of its own" in second[1].err
    job[0].process.send_signal(signal.SIGTERM)
    assert (143, 143) == job.wait()


@pytest.mark.slow
def test_a_lost_node_may_come_back(nodes: Callable[..., Nodes]):
    """With restarts left, the first node waits for another launcher in its place, and all go on from a checkpoint."""
    job = nodes("--max-restarts=1", *SAVES, "training.num_train_epochs=12")
    job.until_step(6)
    for process in job.of_node(1):
        process.kill()
    job[1].wait()
    job.start(1)

    assert (0, 0) == job.wait(), job[0].err + job[1].err
    (restart,) = job[0].events("restart")
    assert "node 1" in restart["what"]
    assert "is lost" in restart["what"]
    assert [i + 1 for i in range(12)] == [row["epoch"] for row in job[0].metrics["epochs"]]


# -- told to stop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [0, 1])
def test_one_node_that_is_told_to_stop_stops_all_at_one_step(nodes: Callable[..., Nodes], told: int):
    """All ranks save, and every launcher ends with 143."""
    job = nodes(LONG)
    job.until_step(5)
    job[told].process.send_signal(signal.SIGTERM)
    started_s = time.monotonic()

    assert (143, 143) == job.wait()
    assert SOON_S > time.monotonic() - started_s
    (preempted,) = job[0].events("preempted")
    assert preempted["saved"]
    assert (job.dir / "checkpoints" / f"checkpoint-{preempted['step']}").is_dir()
    assert not any((job[n].dir / "failure.json").exists() for n in (0, 1))
    assert job.are_gone(2)
