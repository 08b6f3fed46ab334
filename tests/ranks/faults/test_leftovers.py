"""What a killed job leaves behind is found by the next launch and ended by the doctor; what a running job has is left alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import launch

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

SERVES = """
import socket, subprocess, sys, time
serve = "import os, socket, time; s = socket.create_server(('127.0.0.1', 0)); print(os.getpid(), s.getsockname()[1], flush=True)"
for name in ("server", "on_card"):
    subprocess.Popen([sys.executable, "-c", serve + "; time.sleep(600)"], stdout=open(name, "w"))
time.sleep(600)
"""
NPU_SMI = """#!/bin/sh
cat <<END
| npu-smi 26.1.0                   Version: 26.1.0                                                                     |
| NPU   Name                | Health        | Power(W)             Temp(C)                 Hugepages-Usage(page)       |
| Chip                      | Bus-Id        | AICore(%)            Memory-Usage(MB)        HBM-Usage(MB)               |
| 0     910B3               | OK            | 93.3                 51                      0    / 0                    |
| 0                         | 0000:C1:00.0  | 0                    0    / 0                33403/ 65536                |
| NPU     Chip              | Process id    | Process name       | Process memory(MB)    | Process id in container     |
END
kill -0 PID 2>/dev/null && echo "| 0       0                 | PID           | python             | 30000                 | PID                         |"
exit 0
"""


def doctor(*options: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    env = launch.environment(PATH=f"{path}{os.environ['PATH']}")
    return launch.run(launch.command("doctor", *options), env, timeout_s=60, cwd=cwd)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, tuple[int, int]]]]:
    """A program whose rank has started two servers: the launcher, and pid and port of each."""
    (tmp_path / "serves.py").write_text(SERVES)
    argv = launch.command("--device", "cpu", "--nproc", "1", "serves.py")
    launcher = launch.popen(argv, launch.environment(), cwd=tmp_path, stdout=subprocess.DEVNULL)
    servers: dict[str, tuple[int, int]] = {}
    try:
        deadline = time.monotonic() + 60
        while len(servers) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
            for name in ("server", "on_card"):
                with contextlib.suppress(OSError, ValueError):
                    pid, port = map(int, (tmp_path / name).read_text().split())
                    servers[name] = pid, port
        assert {"server", "on_card"} == servers.keys()
        yield launcher, servers
    finally:
        for pid in (launcher.pid, *(pid for pid, _ in servers.values())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        launcher.wait()


def test_a_killed_jobs_processes_are_named_and_ended(job, tmp_path: Path):
    launcher, servers = job
    (pid, port), (on_card, _) = servers["server"], servers["on_card"]
    endpoint = ("--rdzv-endpoint", f"127.0.0.1:{port}")
    again = (
        "--device",
        "cpu",
        "--nproc",
        "1",
        "--nnodes",
        "2",
        "--node-rank",
        "0",
        "--run-dir",
        "both",
        *endpoint,
        "serves.py",
    )

    running = doctor("--device", "cpu", "--end-leftovers", *endpoint, cwd=tmp_path)
    assert 2 == running.returncode
    assert "no process of an earlier job of yours" in running.stdout and "which is running" in running.stdout
    assert psutil.pid_exists(pid)

    (agent,) = psutil.Process(launcher.pid).children()
    agent.kill()
    assert 1 == launcher.wait(30)
    refused = launch.run(launch.command(*again), launch.environment(), timeout_s=60, cwd=tmp_path)
    assert 2 == refused.returncode
    assert f"port {port} is taken" in refused.stderr and f"by process {pid} of " in refused.stderr
    assert f"ascend-launch doctor --end-leftovers --rdzv-endpoint 127.0.0.1:{port}" in refused.stderr

    ended = doctor("--device", "cpu", "--end-leftovers", *endpoint, cwd=tmp_path)
    assert f"ended: process {pid} of " in ended.stdout and "rendezvous: 127.0.0.1" in ended.stdout, ended.stdout
    assert not psutil.pid_exists(pid) and psutil.pid_exists(on_card)

    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "npu-smi").write_text(NPU_SMI.replace("PID", str(on_card)))
    (tools / "npu-smi").chmod(0o755)
    named = doctor("--device", "npu", cwd=tmp_path, path=f"{tools}:")
    assert f"card 0 is used by process {on_card} of " in named.stdout and "left over by " in named.stdout, named.stdout
    assert "fix: ascend-launch doctor --end-leftovers ends" in named.stdout
    ended = doctor("--device", "npu", "--end-leftovers", cwd=tmp_path, path=f"{tools}:")
    assert f"ended: process {on_card} of " in ended.stdout and "card 0 is used by process" not in ended.stdout
    assert not psutil.pid_exists(on_card)
