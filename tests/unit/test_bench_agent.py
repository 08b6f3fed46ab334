"""The benchmark beside torchrun: its interval, its pairs, and what it says of a launcher that fails or hangs."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import psutil
import pytest

PATH = Path(__file__).resolve().parent.parent.parent / "tools" / "bench_agent.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_agent", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_interval_is_of_the_median_by_order_statistics(bench):
    """For 6 values the outermost (97 %), for 20 the 6th and 15th (96 %); 5 are too few for 95 %."""
    assert bench.interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert (1.0, 6.0) == bench.interval([6.0, 1.0, 5.0, 2.0, 4.0, 3.0])
    assert (6, 15) == bench.interval(range(1, 21))


def test_steps_are_compared_between_neighbouring_turns(bench):
    """A pair with a turn of too few steps does not count; which launcher goes first may change."""
    ends = {
        "ascend-launch": [0.01 * n for n in range(50)] + [1.5 + 0.01 * n for n in range(50)] + [2.3, 2.4],
        "torchrun": [0.5 + 0.02 * n for n in range(25)] + [1.0 + 0.02 * n for n in range(25)],
    }
    turns = [
        ("ascend-launch", 0.0, 0.5),
        ("torchrun", 0.5, 1.0),
        ("torchrun", 1.0, 1.5),
        ("ascend-launch", 1.5, 2.0),
        ("ascend-launch", 2.0, 2.5),
        ("torchrun", 2.5, 3.0),
    ]
    pairs = bench.pairs_of_turns(turns, ends)

    assert [0.5, 0.5] == [pytest.approx(pair["ascend-launch"] / pair["torchrun"]) for pair in pairs]
    assert "| 10.00 | 20.00 | 0.500 |" in bench.row("step", 2, pairs)


def test_a_launcher_that_fails_or_hangs_is_said_and_the_others_go_on(bench, tmp_path: Path):
    """Its words and its exit code, or how long it was waited for; what it started is ended with it."""
    codes = {
        "ascend-launch": "import sys; print('no port left'); sys.exit(3)",
        "torchrun": "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)",
    }
    results = bench.Results()

    def one(launcher: str) -> dict[str, float]:
        command = [sys.executable, "-c", codes[launcher]]
        bench.finish(command, dict(os.environ), tmp_path / "log", timeout_s=20 if launcher == "ascend-launch" else 1.5)
        return {"start": 1.0}

    results.measure("start", 8, bench.LAUNCHERS, one)
    codes["ascend-launch"] = ""
    results.measure("start", 4, bench.LAUNCHERS, one)
    results.measure(
        "start", 2, bench.LAUNCHERS[::-1], lambda launcher: {"start": 3.0 if launcher == "torchrun" else 1.5}
    )

    started = int((tmp_path / "log").read_text())
    assert not psutil.pid_exists(started) or psutil.Process(started).status() == psutil.STATUS_ZOMBIE
    text = "\n".join(results.table())
    assert "failed or hung: 3" in text
    assert "| 4 | 1.00 | none | – | – | 0 |" in text
    assert "- ascend-launch x 8, start: failed with exit code 3: no port left" in text
    assert "- torchrun x 8, start: hung: ended after 1.5 s" in text
    assert "| 2 | 1.50 | 3.00 | 0.500 | – (0.500 to 0.500 seen) | 1 |" in text
