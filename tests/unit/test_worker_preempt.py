"""How ranks come to one answer about being told to stop, whatever their clocks say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.worker.runtime import stop_signals
from launcher.worker.training.stop_poll import ASK_EVERY_S, Question


class Table:
    """Ranks that take turns in one process: the n-th sum that each starts is the same sum."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sums: list[list[tuple[int, ...]]] = []

    def rank(self) -> Any:
        table, started = self, iter(range(10**6))

        class Rank:
            size = table.size

            def start_sum(self, *numbers: int) -> Any:
                place = next(started)
                if place == len(table.sums):
                    table.sums.append([])
                table.sums[place].append(numbers)
                return self._sum(place)

            def _sum(self, place: int) -> Any:
                class Sum:
                    def result(self) -> list[int]:
                        assert len(table.sums[place]) == table.size, "one rank asked a question that others did not"
                        return [sum(column) for column in zip(*table.sums[place], strict=True)]

                return Sum()

        return Rank()


@pytest.mark.parametrize("kinds", [["step"] * 300, ["step"] * 40 + ["batch"] * 30 + ["step"] * 230])
def test_all_ranks_answer_alike(monkeypatch: pytest.MonkeyPatch, kinds: list[str]):
    """With clocks that run at different speeds, the signal of one of three ranks stops all at the same call, soon."""
    table = Table(3)
    ranks = [Question(table.rank()) for _ in range(3)]
    stopped: list[list[int]] = [[], [], []]
    for call, kind in enumerate(kinds):
        for i, question in enumerate(ranks):
            monkeypatch.setattr(time, "monotonic", lambda speed=i + 1, now=call: now * 0.01 * speed)
            monkeypatch.setattr(stop_signals, "_received", signal.SIGTERM if i == 1 and call >= 150 else None)
            if question.answer(kind):
                stopped[i].append(call)

    first = [calls[0] for calls in stopped]
    assert len(set(first)) == 1
    assert 150 < first[0] <= 150 + 2 * ASK_EVERY_S / 0.01
    assert len(table.sums) < 60


def test_one_rank_answers_at_once(monkeypatch: pytest.MonkeyPatch):
    """It has nobody to ask."""
    question = Question(Table(1).rank())

    assert not question.answer("step")
    monkeypatch.setattr(stop_signals, "_received", signal.SIGUSR1)
    assert question.answer("step")


def test_a_forked_worker_does_not_inherit_the_handler(tmp_path: Path):
    """Slurm's signals reach DataLoader workers too and must not end them; the rank's SIGTERM must, or torch cannot."""
    code = f"""
import os, signal, subprocess, time
from pathlib import Path
from launcher.worker.runtime import stop_signals as preempt
preempt.install(Path({str(tmp_path)!r}) / "error_0.json", 0)
worker = os.fork()
if worker == 0:
    time.sleep(60)
    os._exit(0)
os.kill(worker, signal.SIGUSR1)
subprocess.run(["kill", "-TERM", str(worker)], check=True)
time.sleep(0.3)
assert os.waitpid(worker, os.WNOHANG) == (0, 0), "somebody else's signal ended the worker"
os.kill(worker, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
os.kill(os.getpid(), signal.SIGUSR1)
assert preempt.received() == signal.SIGUSR1
print("as it should be")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ})

    assert done.stdout == "as it should be\n", done.stderr
