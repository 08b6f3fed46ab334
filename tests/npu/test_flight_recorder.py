"""Programs whose ranks do not call the same collective, on two virtual cards: HCCL's recorder names the first that differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import REPO, Machine

PROGRAMS = REPO / "tests" / "ranks" / "programs"
DIFFERENCES = {
    "dtype": ("dtype", "all_reduce float32 [4]", "all_reduce int32 [4]"),
    "shape": ("shape", "all_reduce float32 [4]", "all_reduce float32 [5]"),
    "missing": ("shape", "all_reduce float32 [7]", "all_reduce float32 [3]"),  # the next call is in its place
    "order": ("operation", "all_reduce float32 [3]", "broadcast float32 [3]"),
}
"""What is done → in what the fourth collective differs, and what each rank calls there."""
TRIES = 3
"""HCCL's watchdog now and then takes a rank down before its record is whole; nothing is made up then."""


@pytest.mark.parametrize("what", DIFFERENCES)
def test_the_first_collective_that_differs_is_named(machine: Machine, tmp_path: Path, what: str) -> None:
    """HCCL says that arguments are inconsistent, and not where: the record does, with the lines."""
    how, first, second = DIFFERENCES[what]
    for number in range(TRIES):
        run = tmp_path / f"run_{number}"
        words = ("--nproc-per-node", "2", "--run-dir", run, PROGRAMS / "mismatch.py", "npu", what)
        ran = machine(sys.executable, "-m", "launcher.cli", "program", *words)
        assert 1 == ran.code, ran.text[-3000:]
        failure = json.loads((run / "failure.json").read_text())
        if "collective" in failure:
            break
        assert not all((run / "attempt_0" / f"collectives_{rank}.json").exists() for rank in (0, 1)), ran.text[-3000:]
    found = failure["collective"]
    assert (how, 4, [1]) == (found["how"], found["number"], found["ranks"])
    for call, text in zip(found["calls"], (first, second), strict=True):
        assert call["call"].startswith(f"{text} (")
        assert 2 == len([place for place in call["places"] if "mismatch.py:" in place])
    assert "[collective-differs]" in ran.text
