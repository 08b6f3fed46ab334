"""Is a rank stuck, and which one is to blame? Beats and process states in, a failure record out."""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import EXIT_JOB_FAILED
from launcher.messages import Message, plural
from launcher.rundir.records import STALLED, Failure
from launcher.worker.agent.activity import Activity
from launcher.worker.runtime import failure, heartbeat

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
LIBRARIES = ("/torch/", "/torch_npu/", "/deepspeed/comm/", "accelerate/utils/operations")
"""Whose functions a program calls to wait for the other ranks."""
WRAPPERS = ("wrapper", "decorate_context", "_call_impl", "_wrapped_call_impl", "_fn")
"""Functions around those."""
_FRAME = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)')
PASSED_THROUGH = ("torch/_ops.py", "torch/utils/_contextlib.py")
"""Files in which a collective may be innermost without its own."""
OF_THE_AGENT = re.compile(
    r'^(?:Current thread|Thread) .*\n  File "[^"]*/launcher/worker/runtime/flight\.py".*\n\n|'
    r'  File "[^"]*/launcher/worker/(?:program|agent/ending)\.py"(?:.*\n?)*',
    re.MULTILINE,
)
"""Below a program's own frames, and the thread that writes the record of collectives."""
AT_THE_END = re.compile(r"threading\.py.* in _shutdown$|multiprocessing/util\.py.* in _exit_function$")
"""A frame of Python's own end, in which it waits for what the program has started and not ended."""
QUIET = (heartbeat.STARTED, heartbeat.TRAINED)
"""Phases in which a rank of a program need not come to anything more."""


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

    def __init__(
        self, folder: Path, timeout_s: float, activity: Activity | None = None, *, is_alone: bool = True
    ) -> None:
        """
        Args:
            activity: of ranks that may work without a beat; None where beats tell all.
            is_alone: whether all ranks of the job are on this node.
        """
        self.folder = folder
        self.timeout_s = timeout_s
        self._activity = activity
        self._is_alone = is_alone
        self._next_s = 0.0
        self._worked_s = float("-inf")
        """When a rank was last seen at work, of those whose beats are all old."""
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
        if self._activity is not None:
            self._activity.look(ranks.values(), now)
        beats = {rank: self._beat(rank, now) for rank in ranks}
        if any(beat is None or (beat[0] < self.timeout_s and not at_once) for beat in beats.values()):
            self._worked_s = float("-inf")
            return None
        states = {rank: _state(pid) for rank, pid in ranks.items()}  # before the stopped ones are woken to answer
        stacks = self._stacks(ranks)
        seen = [
            Seen(rank, beat[1], beat[2], beat[0], states[rank], stacks[rank])
            for rank, beat in beats.items()
            if beat is not None
        ]
        if self._activity is not None and not at_once and not self._is_hang(seen, ranks, self._activity, now):
            self._next_s = now + max(self.timeout_s / 4, LOOK_EVERY_S)
            return None
        record = _record(culprit(seen), seen, self.folder)
        # The node that has the culprit of a program saw it by itself: a rank of this one may be failing since it is gone.
        return record.but(weight=failure.FOLLOWED) if at_once and self._activity is not None else record

    def _is_hang(self, seen: list[Seen], ranks: dict[int, int], activity: Activity, now: float) -> bool:
        """Whether ranks whose beats are all old have come to a stand, and are not merely busy with something else."""
        patience = 1 if self._is_alone or not all(waits(rank) for rank in seen) else 2
        # Where all of this node wait, one of another node's may be at work: that node sees it first if it is not.
        if min(rank.age_s for rank in seen) < patience * self.timeout_s:
            return False
        at_work = {rank.rank for rank in seen if activity.is_at_work(ranks[rank.rank], now - rank.age_s)}
        is_one_outside = any(rank.rank in at_work and not waits(rank) for rank in seen)
        # One that worked and waits now has either come to a collective only lately, or turns in circles while it waits.
        if is_one_outside or (at_work and self._worked_s == float("-inf")):
            self._worked_s = now
        return now - self._worked_s >= self.timeout_s and is_hang(seen, at_work)

    def _beat(self, rank: int, now: float) -> tuple[float, int, str] | None:
        """How long ago, of the time in which this process ran too; the step and the phase."""
        beat = heartbeat.read_beat(self.folder / f"beat_{rank}")
        if beat is None:
            return None
        time_s = beat.time_ns / 1e9
        asleep_s = sum(length for end, length in self._gaps if end > time_s)
        return now - time_s - asleep_s, beat.step, beat.phase

    def _stacks(self, ranks: dict[int, int]) -> dict[int, str]:
        files = {rank: self.folder / f"stacks_{rank}.txt" for rank in ranks}
        old = {rank: file.stat().st_size if file.exists() else 0 for rank, file in files.items()}
        for pid in ranks.values():
            if not _hears(pid, signal.SIGUSR2):  # it would end by it
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
                os.kill(pid, signal.SIGCONT)  # a stopped one answers first of all, and is killed right after
        deadline = time.monotonic() + STACKS_S
        before: list[int] = []
        while time.monotonic() < deadline:
            sizes = [f.stat().st_size - old[rank] if f.exists() else 0 for rank, f in files.items()]
            if all(sizes) and sizes == before:  # a stack is written line by line
                break
            before = sizes
            time.sleep(0.05)
        return {
            rank: file.read_bytes()[old[rank] :].decode(errors="replace") if file.exists() else ""
            for rank, file in files.items()
        }


def is_hang(seen: list[Seen], at_work: set[int]) -> bool:
    """Whether ranks of a program, none of which has given a sign of life for too long, have come to a stand.

    Not where one computes, reads or writes while it is in no collective: others may well wait for its evaluation or its
    save. And not where none waits and none has ever come to a batch or a step: a server stands still for days.

    Args:
        at_work: ranks that used the processor, or read or wrote, in the meantime.
    """
    if any(rank.state in "TtZX" for rank in seen):
        return True
    if any(rank.rank in at_work and not waits(rank) for rank in seen):
        return False
    return any(waits(rank) or rank.phase not in QUIET for rank in seen)


def culprit(seen: list[Seen]) -> Seen:
    """The rank that did not arrive, not those that wait for it.

    In this order: a process that is stopped or dead; one that is behind in steps; one whose stack is outside of any
    collective; one that cannot answer.
    """

    def suspicion(rank: Seen) -> tuple[bool, int, bool, bool, float]:
        return (rank.state not in "TtZX", rank.step, waits(rank), bool(rank.stack), -rank.age_s)

    return min(seen, key=suspicion)


def waits(rank: Seen) -> bool:
    """Whether it stands in a collective, or waits for its card, on which that is: what its main thread does innermost
    tells, since a model's own code is called from such a file too."""
    frames = [frame for frame in _main_thread(rank.stack) if not any(place in frame for place in PASSED_THROUGH)]
    return bool(frames) and (any(place in frames[0] for place in WAITING) or bool(_synchronises(frames[0])))


def _main_thread(stack: str) -> list[str]:
    """Its frames, innermost first: the last thread that faulthandler writes is the main one."""
    last = re.split(r"^.*\(most recent call first\):.*$", stack, flags=re.MULTILINE)[-1]
    return [line.strip() for line in last.splitlines() if line.strip().startswith("File ")]


def _synchronises(frame: str) -> str:
    """What a frame's line asks for of what a card computes, or of a call that goes on beside it; '' where nothing. A wait of
    Python's own, for a thread or a process, has a file of Python's innermost."""
    place = _FRAME.match(frame)
    line = linecache.getline(place["file"], int(place["line"])) if place else ""
    asked = re.search(r"(?<!\bos)\.(item|cpu|tolist|synchronize|wait)\(", line)
    return asked[1] if asked else ""


def call_of(stack: str) -> str:
    """The call in which a rank's stack ends, and where the program makes it: `recv (train.py:12)`; '' where that is not seen."""
    name = ""
    for place, text in ((_FRAME.match(frame), frame) for frame in _main_thread(stack)):
        if place is None:
            return ""
        if "/launcher/worker/" in place["file"]:  # a hook around the call
            continue
        if not any(library in place["file"] for library in LIBRARIES):
            name = name or _synchronises(text)
            return f"{name} ({Path(place['file']).name}:{place['line']})" if name else ""
        name = name if place["function"] in WRAPPERS else place["function"]
    return ""


def _record(stalled: Seen, seen: list[Seen], folder: Path) -> Failure:
    states = {
        "T": Message("is stopped (SIGSTOP, or a debugger)"),
        "t": Message("is held by a debugger"),
        "Z": Message("is dead"),
        "D": Message("hangs in the kernel"),
    }
    since = Message("has not moved since {phase} of step {step}", phase=stalled.phase, step=stalled.step)
    how = states.get(
        stalled.state, Message("has not moved since it started") if stalled.phase == heartbeat.STARTED else since
    )
    only_waits = waits(stalled) and stalled.state not in "TtZX"
    return Failure.of(
        rank=stalled.rank,
        type=STALLED,
        message=how,
        what=Message(
            "rank {rank} {how}: nothing for {age_s:.0f} s{waiting}",
            rank=stalled.rank,
            how=how,
            age_s=stalled.age_s,
            waiting=_waiting(stalled, [one for one in seen if one is not stalled], only_waits=only_waits),
        ),
        hint=Message(
            "the Python stacks of all ranks are in {folder}/stacks_*.txt; --hang-timeout sets the limit", folder=folder
        ),
        traceback=OF_THE_AGENT.sub("", stalled.stack),
        # Where the likeliest of this node's ranks only waits, the culprit is on another.
        weight=failure.FOLLOWED if only_waits else failure.CAUSE,
        time_ns=time.monotonic_ns() - int(stalled.age_s * 1e9),
        time=time.time() - stalled.age_s,
        exit_code=EXIT_JOB_FAILED,
        host=os.uname().nodename,
        ranks=[
            {"rank": s.rank, "step": s.step, "phase": s.phase, "age_s": round(s.age_s, 1), "state": s.state}
            for s in seen
        ],
    )


def _waiting(stalled: Seen, others: list[Seen], *, only_waits: bool) -> str:
    """Who waits besides, and in which call of the program."""
    if any(AT_THE_END.search(frame) for frame in _main_thread(stalled.stack)):
        return Message("; its program has ended, and Python waits for a thread or a process that it started")
    if not others:
        return ""
    ranks = ", ".join(str(one.rank) for one in others)
    own, theirs = call_of(stalled.stack), sorted({call_of(one.stack) for one in others if waits(one)} - {""})
    calls = ", ".join(theirs)
    if not only_waits and not calls:
        return plural("; rank {others} waits for it", "; ranks {others} wait for it", count=len(others), others=ranks)
    if not only_waits:
        texts = ("; rank {others} waits for it in {calls}", "; ranks {others} wait for it in {calls}")
        return plural(*texts, count=len(others), others=ranks, calls=calls)
    if own and theirs not in ([], [own]):
        texts = (
            "; it waits in {own}, and rank {others} in {calls}",
            "; it waits in {own}, and ranks {others} in {calls}",
        )
        return plural(*texts, count=len(others), own=own, others=ranks, calls=calls)
    texts = (
        "; it waits in {own}, and so does rank {others}",
        "; it waits in {own}, and so do ranks {others}",
    )
    return plural(*texts, count=len(others), own=own or Message("a collective"), others=ranks)


def _hears(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False
    return caught is None or bool(int(caught[1], 16) >> (number - 1) & 1)


def _state(pid: int) -> str:
    try:
        # The command name stands in brackets and may hold anything; the state follows the last one.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"
