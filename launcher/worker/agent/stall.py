"""Is a rank stuck, and which one is to blame? Beats and process states in, a failure record out."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import EXIT_JOB_FAILED
from launcher.messages import Message, plural
from launcher.rundir.records import STALLED, Failure
from launcher.worker.runtime import failure

LOOK_EVERY_S = 1.0
GAP_S = 2.0
"""The agent looks ten times a second: where it did not for so long it was itself stopped, with its ranks or alone (a lid
closed, a container frozen), and that time says nothing of them."""
STACKS_S = 2.0
"""What ranks get to write their Python stacks."""
WAITING = (
    "torch/distributed",
    "nn/parallel/distributed.py",
    "deepspeed/comm",
    "autograd/graph.py",
    "autograd/__init__.py",
    "accelerate/utils/operations",
)
"""Files in which a rank waits for the others: collectives, and the backward pass that runs them."""


@dataclass(frozen=True)
class Seen:
    """What is known of a rank when all have stood still for too long."""

    rank: int
    step: int
    phase: str
    age_s: float
    state: str
    """The kernel's letter: R S D T Z."""
    stack: str
    """Innermost Python frames first, as faulthandler writes them; '' where the rank could not answer."""


class Watch:
    """Looks at the beats of one attempt's local ranks."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self.folder = folder
        self.timeout_s = timeout_s
        self._next_s = 0.0
        self._called_s = float("inf")
        self._gaps: list[tuple[float, float]] = []
        """Times in which this process did not run: their ends on the monotonic clock, and how long each was."""

    def look(self, ranks: dict[int, int], *, at_once: bool = False) -> Failure | None:
        """A failure record naming the culprit where every rank given (rank → pid) stands still; else None.

        `at_once`: another node's ranks do, so these do not need to have stood for as long.
        One rank that waits in a collective for a slow one stands still too, so only all of them count as a hang.
        """
        now = time.monotonic()
        if now - self._called_s > GAP_S:
            self._gaps.append((now, now - self._called_s))
        self._called_s = now
        if not ranks or (not at_once and (not self.timeout_s or now < self._next_s)):
            return None
        self._next_s = now + LOOK_EVERY_S
        beats = {rank: self._beat(rank, now) for rank in ranks}
        if any(beat is None or (beat[0] < self.timeout_s and not at_once) for beat in beats.values()):
            return None
        states = {rank: _state(pid) for rank, pid in ranks.items()}  # before the stopped ones are woken to answer
        stacks = self._stacks(ranks)
        seen = [
            Seen(rank, beat[1], beat[2], beat[0], states[rank], stacks[rank])
            for rank, beat in beats.items()
            if beat is not None
        ]
        return _record(culprit(seen), seen, self.folder)

    def _beat(self, rank: int, now: float) -> tuple[float, int, str] | None:
        """How long ago, of the time in which this process ran too; the step and the phase."""
        from launcher.worker.runtime import heartbeat

        beat = heartbeat.read_beat(self.folder / f"beat_{rank}")
        if beat is None:
            return None
        time_s = beat.time_ns / 1e9
        asleep_s = sum(length for end, length in self._gaps if end > time_s)
        return now - time_s - asleep_s, beat.step, beat.phase

    def _stacks(self, ranks: dict[int, int]) -> dict[int, str]:
        files = {rank: self.folder / f"stacks_{rank}.txt" for rank in ranks}
        for pid in ranks.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
                os.kill(pid, signal.SIGCONT)  # a stopped one answers first of all, and is killed right after
        deadline = time.monotonic() + STACKS_S
        before: list[int] = []
        while time.monotonic() < deadline:
            sizes = [f.stat().st_size if f.exists() else 0 for f in files.values()]
            if all(sizes) and sizes == before:  # a stack is written line by line
                break
            before = sizes
            time.sleep(0.05)
        return {rank: file.read_text(errors="replace") if file.exists() else "" for rank, file in files.items()}


def culprit(seen: list[Seen]) -> Seen:
    """The rank that did not arrive, not those that wait for it.

    In this order: a process that is stopped or dead; one that is behind in steps; one whose stack is outside of any
    collective; one that cannot answer.
    """

    def suspicion(rank: Seen) -> tuple[bool, int, bool, bool, float]:
        return (rank.state not in "TtZX", rank.step, waits(rank), bool(rank.stack), -rank.age_s)

    return min(seen, key=suspicion)


def waits(rank: Seen) -> bool:
    """Whether it stands in a collective."""
    return any(place in rank.stack for place in WAITING)


def _record(stalled: Seen, seen: list[Seen], folder: Path) -> Failure:
    states = {
        "T": Message("is stopped (SIGSTOP, or a debugger)"),
        "t": Message("is held by a debugger"),
        "Z": Message("is dead"),
        "D": Message("hangs in the kernel"),
    }
    how = states.get(
        stalled.state, Message("has not moved since {phase} of step {step}", phase=stalled.phase, step=stalled.step)
    )
    others = [str(s.rank) for s in seen if s.rank != stalled.rank]
    waiting = (
        plural(
            "; rank {others} waits for it", "; ranks {others} wait for it", count=len(others), others=", ".join(others)
        )
        if others
        else ""
    )
    return Failure.of(
        rank=stalled.rank,
        type=STALLED,
        message=how,
        what=Message(
            "rank {rank} {how}: nothing for {age_s:.0f} s{waiting}",
            rank=stalled.rank,
            how=how,
            age_s=stalled.age_s,
            waiting=waiting,
        ),
        hint=Message(
            "the Python stacks of all ranks are in {folder}/stacks_*.txt; --hang-timeout sets the limit", folder=folder
        ),
        traceback=stalled.stack,
        # Where the likeliest of this node's ranks only waits, the culprit is on another.
        weight=failure.FOLLOWED if waits(stalled) and stalled.state not in "TtZX" else failure.CAUSE,
        time_ns=time.monotonic_ns() - int(stalled.age_s * 1e9),
        time=time.time() - stalled.age_s,
        exit_code=EXIT_JOB_FAILED,
        host=os.uname().nodename,
        ranks=[
            {"rank": s.rank, "step": s.step, "phase": s.phase, "age_s": round(s.age_s, 1), "state": s.state}
            for s in seen
        ],
    )


def _state(pid: int) -> str:
    try:
        # The command name stands in brackets and may hold anything; the state follows the last one.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"
