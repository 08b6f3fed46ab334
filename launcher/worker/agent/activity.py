"""Whether a process has worked of late, seen from outside: the processor's time, and what was read and written, by it and
by what it started."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAIN_SHARE = 0.02
"""Of one core, used by the main thread, or by the processes below: a loop that has a card compute uses more."""
THREAD_SHARE = 0.2
"""Of one core, used by another thread. Each of a card's, which only look at something now and then, uses a hundredth."""
BYTES_PER_S = 64 << 10
LOOKS = 16
"""In a window."""


@dataclass(frozen=True)
class Used:
    """What a process and those below it have used so far."""

    main_s: float
    """Of the processor, by the main thread and by the processes below."""
    threads_s: Mapping[int, float]
    """By each other thread."""
    num_bytes: int
    """Read and written."""


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
        while looks[-1][0] - looks[0][0] > self.window_s:
            looks.popleft()

    def is_at_work(self, pid: int, since_s: float) -> bool:
        """Whether it used a share of the processor, or read or wrote, in the window and since that time; also where that is
        not known yet."""
        looks = [look for look in self._seen.get(pid, ()) if look[0] >= since_s]
        if not looks or looks[-1][0] - looks[0][0] < self.window_s / 2:
            return True
        (first_s, first), (last_s, last) = looks[0], looks[-1]
        seconds = last_s - first_s
        return (
            last.main_s - first.main_s >= MAIN_SHARE * seconds
            or last.num_bytes - first.num_bytes >= BYTES_PER_S * seconds
            or any(
                used_s - first.threads_s.get(thread, 0.0) >= THREAD_SHARE * seconds
                for thread, used_s in last.threads_s.items()
            )
        )


def used_by(pid: int) -> Used:
    """By a process, and by all that it and they started; nothing where it is gone."""
    threads_s = _threads_s(pid)
    main_s, num_bytes, left = threads_s.pop(pid, 0.0), _bytes(pid), _children(pid)
    while left:
        process = left.pop()
        main_s += sum(_cpu_s(Path(f"/proc/{process}/stat"), 4))
        num_bytes += _bytes(process)
        left += _children(process)
    main_s += sum(_cpu_s(Path(f"/proc/{pid}/stat"), 4)[2:])  # of children that have ended
    return Used(main_s, threads_s, num_bytes)


def _threads_s(pid: int) -> dict[int, float]:
    try:
        return {int(task.name): sum(_cpu_s(task / "stat", 2)) for task in Path(f"/proc/{pid}/task").iterdir()}
    except OSError:
        return {}


def _cpu_s(stat: Path, count: int) -> list[float]:
    """Its own time in user mode and in the kernel's, and then that of children that have ended."""
    try:
        words = stat.read_text().rpartition(")")[2].split()
        return [int(word) / os.sysconf("SC_CLK_TCK") for word in words[11 : 11 + count]]
    except (OSError, ValueError):
        return [0.0] * count


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
