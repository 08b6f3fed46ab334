"""A job on a real terminal: figures of each rank, a straggler named, and the terminal as it was when it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import termios
import time
from pathlib import Path

import pytest

from tests.support import launch as starting
from tests.support.launch import REPO

INJECT = REPO / "tests" / "ranks" / "faults" / "inject"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
pytestmark = pytest.mark.ranks


def on_terminal(
    argv: list[str], env: dict[str, str], *, type_at: str = "", keys: bytes = b"", columns: int = 100
) -> tuple[int, str]:
    """Run in a session with a terminal of its own; its exit code and everything that the terminal was sent.

    `keys` are typed once, when `type_at` has appeared.
    """
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 0, columns, 0, 0))
    base = {k: v for k, v in starting.environment().items() if k not in ("NO_COLOR", "FORCE_COLOR", "LINES")}
    del base["ASCEND_LAUNCH_REPORT"]
    process = starting.popen(
        argv,
        {**base, "TERM": "xterm-256color", "COLUMNS": str(columns), **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY),
    )
    os.close(theirs)
    said, deadline = b"", time.monotonic() + 240
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # the child closed it
                break
            if not part:
                break
            said += part
            if keys and type_at.encode() in said:
                os.write(terminal, keys)
                keys = b""
    else:
        process.kill()
    os.close(terminal)
    return process.wait(), said.decode(errors="replace")


@pytest.fixture
def launch(tmp_path, shared_cache):
    def run(*words, fault="", **options):
        env = {"ASCEND_LAUNCH_CACHE": shared_cache, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        if fault:
            env |= {"FAULT": fault, "PYTHONPATH": f"{INJECT}:{REPO}"}
        argv = starting.command("--device", "cpu", "--nproc", "2", "--run-dir", tmp_path / "run")
        recipe = str(REPO / "recipes" / "tiny-cpu.yaml")
        return on_terminal([*argv, recipe, *words], env, **options)

    return run


def events(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "run" / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def report(folder: Path) -> str:
    return (folder / "run" / "report.html").read_text(encoding="utf-8")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_straggler_shows_while_the_job_runs(launch, tmp_path):
    """Rank 1 is slow in its forward passes from step 10 on. Rank 0 waits for it, so steps take as long on both; only
    each rank's own work tells. Nothing of the libraries' chatter reaches the terminal, and the cursor comes back."""
    code, said = launch("training.num_train_epochs=2", fault="drag 1 10")
    assert 0 == code, said

    last = events(tmp_path, "rates")[-1]
    own = [data + forward for data, forward in zip(last["data_s"], last["forward_s"], strict=True)]
    assert (2, 2) == (len(own), len(last["host_bytes"]))
    assert own[1] > 2 * own[0]
    assert "times the others'" in plain(said)
    assert "left" in plain(said)
    assert said.rindex(HIDE) < said.rindex(SHOW)
    assert "Own work by rank" in report(tmp_path)
    assert [] == [word for word in ("Warning", "warnings.warn", "[INFO]", "[WARNING]", "W1124") if word in said]


@pytest.mark.slow
def test_rows_and_tokens_are_those_that_were_trained_on(launch, tmp_path):
    """240 rows an epoch; tokens without padding, as the run's data.json counts them."""
    code, said = launch("training.num_train_epochs=1")
    assert 0 == code, said

    data = json.loads((tmp_path / "run" / "data.json").read_text())
    rates = events(tmp_path, "rates")
    assert (20, 240) == (sum(r["steps"] for r in rates), sum(r["rows"] for r in rates))
    assert pytest.approx(240 * data["train"]["mean_tokens"], abs=240 * 0.05) == sum(r["tokens"] for r in rates)
    assert all(size > 50 << 20 for r in rates for size in r["host_bytes"])


@pytest.mark.slow
def test_interrupted_the_terminal_is_given_back(launch, tmp_path):
    """^C on the keyboard: the ranks save and leave, exit code 130, cursor shown; the report says so."""
    code, said = launch("training.num_train_epochs=200", type_at="epoch 2  train", keys=b"\x03")

    assert 130 == code
    assert said.rindex(HIDE) < said.rindex(SHOW)
    assert "stopping   SIGINT" in plain(said)
    assert "stopped; what there is lies in" in plain(said)
    assert "Stopped before its end" in report(tmp_path)


def test_failed_the_terminal_is_given_back(launch, tmp_path):
    """The traceback stands below the lines, once, and in the report."""
    code, said = launch("training.num_train_epochs=2", fault="raise 1 10")

    assert 1 == code
    assert said.rindex(HIDE) < said.rindex(SHOW)
    assert 1 == plain(said).count("Traceback")
    assert "rank 1 on" in plain(said)
    assert "ValueError: injected: the model ate the homework" in report(tmp_path)
