"""Programs whose ranks do not call the same collective, on gloo: the first that differs is named, however the job ends by it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

from tests.support import launch  # noqa: E402

PROGRAMS = Path(__file__).parent / "programs"
PROGRAM = PROGRAMS / "mismatch.py"
DIFFERENCES = {
    "dtype": ("dtype", "all_reduce float32 [4]", "all_reduce float64 [4]"),
    "shape": ("shape", "all_reduce float32 [4]", "all_reduce float32 [5]"),
    "missing": ("shape", "all_reduce float32 [7]", "all_reduce float32 [3]"),  # the next call is in its place
    "order": ("operation", "all_reduce float32 [3]", "broadcast float32 [3]"),
}
"""What is done → in what the fourth collective differs, and what each rank calls there."""


@pytest.mark.parametrize("what", DIFFERENCES)
def test_the_first_collective_that_differs_is_named(tmp_path: Path, what: str) -> None:
    """gloo aborts a process, resets the other's connection, or lets both wait: each rank's record is there all the same, and
    both lines of a call are named, the helper's and its caller's. In failure.json, and on the screen in the reader's language."""
    how, first, second = DIFFERENCES[what]
    argv = [
        sys.executable,
        "-m",
        "launcher.cli",
        "program",
        "--nproc",
        "2",
        "--run-dir",
        "run",
        str(PROGRAM),
        "cpu",
        what,
    ]
    env = {**launch.environment(), "ASCEND_LAUNCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": launch.REPO}
    env["ASCEND_LAUNCH_LANG"] = "zh"
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)

    assert 1 == done.returncode, done.stderr
    found = json.loads((tmp_path / "run" / "failure.json").read_text())["collective"]
    assert (how, 4, [1], [[0], [1]]) == (
        *(found[k] for k in ("how", "number", "ranks")),
        [c["ranks"] for c in found["calls"]],
    )
    lines = PROGRAM.read_text().splitlines()
    for call, text in zip(found["calls"], (first, second), strict=True):
        assert call["call"].startswith(f"{text} (")
        inner, outer = (int(place.rpartition(":")[2]) for place in call["places"])
        assert (True, True) == (
            text.split()[0] in lines[inner - 1],
            bool(re.search(r"\b(add|send)\(", lines[outer - 1])),
        )
        assert call["call"] in done.stderr
    assert "[collective-differs]" in done.stderr
    assert re.search(r"集合通信不一致.*第 4 次", done.stderr)
    assert not list((tmp_path / "run").glob("attempt_0/*.ask"))


@pytest.mark.parametrize(
    ("ranks", "words", "want"),
    [
        (1, ("mismatch.py", "cpu", "dtype"), ("dtype", [1], [[0], [1]])),
        (2, ("hangs.py", "loop"), ("missing", [1], [[0, 2, 3]])),
    ],
    ids=["another type on the second node", "a rank of the first stands still"],
)
def test_records_of_two_nodes_are_compared(tmp_path: Path, ranks: int, words: tuple[str, ...], want: tuple) -> None:
    """Each node has its own ranks' records alone; both say the same of all."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    argv = [
        sys.executable,
        "-m",
        "launcher.cli",
        "program",
        "--nproc",
        str(ranks),
        "--nnodes",
        "2",
        "--hang-timeout",
        "6",
    ]
    argv += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    env = {**launch.environment(), "ASCEND_LAUNCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": launch.REPO}
    started = [
        subprocess.Popen(
            [*argv, "--node-rank", str(node), "--run-dir", f"run_{node}", str(PROGRAMS / words[0]), *words[1:]],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    texts = [process.communicate(timeout=240)[0] for process in started]

    assert [1, 1] == [process.returncode for process in started], texts
    for path in (tmp_path / "run_0", tmp_path / "run_1" / "node_1"):
        found = json.loads((path / "failure.json").read_text())["collective"]
        assert want == (found["how"], found["ranks"], [row["ranks"] for row in found["calls"]])
        assert list(range(2 * ranks)) == found["group_ranks"]
    assert all("[collective-" in text for text in texts)
