"""Nodes that meet ask no name server, which torch's store would do at each connection, on the one thread that serves all."""

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
MEET = """
import socket, sys
from pathlib import Path
from tests.unit.test_worker_nodes import Met, two_nodes
try:
    socket.getaddrinfo("asked.example", None)
except OSError:
    pass
met = Met(two_nodes(Path(sys.argv[1]), npu=False))
print(*[m.host for m in met.got], flush=True)
met.close()
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, and unshare (util-linux)")
def test_nodes_meet_without_a_name_server(tmp_path: Path):
    """One that never answers is asked by whoever looks up a name, and not by the nodes."""
    (tmp_path / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
    setup = 'mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", setup, str(tmp_path), sys.executable, "-c", MEET, "recipes/tiny-cpu.yaml"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((NAME_SERVER, 53))
        server.setblocking(False)
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, timeout=120, check=False)
        asked = []
        while True:
            try:
                asked.append(server.recv(512))
            except BlockingIOError:
                break

    assert "127.0.0.1 127.0.0.1" == done.stdout.strip(), done.stderr
    assert [True] * len(asked) == [b"asked" in query for query in asked]
    assert asked
