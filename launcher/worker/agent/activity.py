"""Whether a process has worked of late, seen from outside: the processor's time, and what was read and written, by it and
by what it started."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

CPU_SHARE = 0.02
"""Of one core: threads that only look at something now and then use less, a loop that has a card compute uses more."""
BYTES_PER_S = 64 << 10
LOOKS = 16
"""In a window."""


@dataclass(frozen=True)
class Used:
    """What a process and those below it have used so far."""

    cpu_s: float
    num_bytes: int


@dataclass
class Activity:
    """Of some processes, over the last `window_s` seconds."""

    window_s: float
    _seen: dict[int, deque[tuple[float, Used]]] = field(default_factory=dict)
    _next_s: float = 0.0

    def look(self, pids: Iterable[int], now: float) -> None:
        """To be called often; it looks when it is time."""
        if now < self._next_s:
            return
        self._next_s = now + self.window_s / LOOKS
        for pid in pids:
            self.note(pid, now, used_by(pid))

    def note(self, pid: int, now: float, used: Used) -> None:
        """Take in what a process had used by `now`, a time in seconds."""
        looks = self._seen.setdefault(pid, deque())
        looks.append((now, used))
        while looks[-1][0] - looks[0][0] > self.window_s * (1 + 1 / LOOKS):
            looks.popleft()

    def is_at_work(self, pid: int) -> bool:
        """Whether it used a share of the processor, or read or wrote, in the window; also where that is not known yet."""
        looks = self._seen.get(pid)
        if not looks or looks[-1][0] - looks[0][0] < self.window_s / 2:
            return True
        (first_s, first), (last_s, last) = looks[0], looks[-1]
        seconds = last_s - first_s
        return (
            last.cpu_s - first.cpu_s >= CPU_SHARE * seconds or last.num_bytes - first.num_bytes >= BYTES_PER_S * seconds
        )


def used_by(pid: int) -> Used:
    """By a process, and by all that it and they started; nothing where it is gone."""
    cpu_s, num_bytes, left = 0.0, 0, [pid]
    while left:
        process = left.pop()
        cpu_s += _cpu_s(process)
        num_bytes += _bytes(process)
        left += _children(process)
    return Used(cpu_s, num_bytes)


def _cpu_s(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")  # its own, and of children that have ended
    except (OSError, ValueError):
        return 0.0


def _bytes(pid: int) -> int:
    try:
        rows = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return int(rows["rchar"]) + int(rows["wchar"])
    except (OSError, ValueError, KeyError):
        return 0


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    except (OSError, ValueError):
        pass
    return children
