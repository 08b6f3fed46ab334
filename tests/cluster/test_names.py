"""Nodes and ranks that meet ask no name server, which torch's store would do at each connection, on one thread for all."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
NAME_SERVER = "127.0.53.53"
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, and unshare (util-linux)"
)


def asked(tmp_path: Path, cache: str, *argv: str) -> tuple[str, list[bytes]]:
    """What a command printed, and the questions that it had for a name server that never answers."""
    (tmp_path / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
    setup = 'mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'
    env = {k: v for k, v in os.environ.items() if not k.startswith(("ASCEND_", "SLURM", "RANK", "WORLD_"))}
    env |= {"PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ASCEND_LAUNCH_CACHE": cache}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((NAME_SERVER, 53))
        server.setblocking(False)
        words = ["unshare", "--mount", "sh", "-c", setup, str(tmp_path), sys.executable, *argv]
        done = subprocess.run(words, cwd=REPO, env=env, capture_output=True, text=True, timeout=240, check=False)
        questions = []
        while True:
            try:
                questions.append(server.recv(512))
            except BlockingIOError:
                break
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip(), questions


MEET = """
import sys
from pathlib import Path
from tests.unit.test_worker_nodes import Met, two_nodes
met = Met(two_nodes(Path(sys.argv[1]), npu=False))
print(*[m.host for m in met.got], flush=True)
met.close()
"""
LOOK_UP = """
import socket
from launcher import network
def look_up(name):
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        pass
look_up("before.example")
with network.no_name_server({"MASTER_ADDR": "10.0.0.1", "GLOO_SOCKET_IFNAME": "eth0"}):
    look_up("within.example")
look_up("after.example")
with network.no_name_server({"MASTER_ADDR": "first-node", "GLOO_SOCKET_IFNAME": "eth0"}):
    look_up("named.example")
"""


def test_nodes_meet_without_a_name_server(tmp_path: Path, shared_cache: str):
    """Two links, a store and its client."""
    assert ("127.0.0.1 127.0.0.1", []) == asked(tmp_path, shared_cache, "-c", MEET, "recipes/tiny-cpu.yaml")


@pytest.mark.ranks
def test_a_launch_starts_its_ranks_without_a_name_server(tmp_path: Path, shared_cache: str):
    """Agent and ranks, to the end of a training."""
    words = [
        "--nproc=2",
        "--device=cpu",
        f"--run-dir={tmp_path / 'run'}",
        "recipes/tiny-cpu.yaml",
        "training.num_train_epochs=1",
    ]
    _, questions = asked(tmp_path, shared_cache, "-m", "launcher.cli", *words)

    assert [] == questions
    assert (tmp_path / "run" / "metrics.json").exists()


def test_names_are_looked_up_again_afterwards(tmp_path: Path, shared_cache: str):
    """Before and after ranks join, and where joining needs a name."""
    _, questions = asked(tmp_path, shared_cache, "-c", LOOK_UP)
    names = {word for question in questions for word in (b"before", b"within", b"after", b"named") if word in question}

    assert {b"before", b"after", b"named"} == names
