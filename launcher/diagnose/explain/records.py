"""What a run directory's own records add to its logs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.diagnose.explain.lines import seconds_of
from launcher.diagnose.explain.source import Source, read_capped
from launcher.messages import Message
from launcher.rundir.records import failure as failure_in


def values(data: Any, keys: Sequence[str], depth: int = 0) -> Any:
    """The first value under one of `keys`, at any depth of a JSON document: launchers nest their records differently."""
    if depth > 8:
        return None
    if isinstance(data, dict):
        for key in keys:
            if data.get(key) not in (None, ""):
                return data[key]
        children: Iterable[Any] = data.values()
    elif isinstance(data, list):
        children = data
    else:
        return None
    for child in children:
        if (value := values(child, keys, depth + 1)) is not None:
            return value
    return None


def json_in(path: Path) -> Any:
    """The value in a file; None, in which nothing matches, where it is not JSON."""
    try:
        return json.loads(read_capped(path))
    except (ValueError, RecursionError):
        return None


def error_record(path: Path, rank: int | None) -> Source | None:
    """error_<r>.json, in our shape or torch elastic's: the traceback as text, with when it happened."""
    if (data := json_in(path)) is None:
        return None
    text = values(data, ("traceback", "py_callstack"))
    message = values(data, ("message", "error"))
    message = message if isinstance(message, str) else values(message, ("message",))
    text = "\n".join(t for t in (text, message) if isinstance(t, str))
    exit_code = values(data, ("process_exit_code", "exitcode", "exit_code"))
    if isinstance(exit_code, int) and exit_code < 0:
        text += Message("\nrank {rank} ended with exit code {exit_code}", rank=rank, exit_code=exit_code)
    stamp = values(data, ("time", "time_s", "timestamp", "wall_time"))
    time_s: float | None
    try:
        time_s = float(stamp)
    except (TypeError, ValueError):
        time_s = seconds_of(stamp) if isinstance(stamp, str) else None
    clock_ns = values(data, ("time_ns",))
    clock_s = clock_ns / 1e9 if isinstance(clock_ns, int) and 0 < clock_ns < 1 << 63 else None
    host, card = values(data, ("host", "hostname")), values(data, ("card", "device_index", "device"))
    return Source(
        path.name,
        text,
        rank,
        host if isinstance(host, str) else None,
        card if isinstance(card, int) else None,
        time_s,
        clock_s,
    )


def failure_record(name: str, data: Any) -> Source | None:
    """What is in failure.json: what the agent itself said, such as a rank that has not moved."""
    failure = failure_in(data)
    if failure is None or failure.what is None:
        return None
    return Source(name, failure.what, failure.rank, failure.host or None)


def difference_record(name: str, data: Any) -> Source | None:
    """The first collective in which ranks part, of failure.json."""
    failure = failure_in(data)
    difference = failure.difference if failure is not None else None
    # Whatever the ranks' logs say of it came later.
    return None if difference is None else Source(name, difference.line, time_s=0.0)


def with_wall_time(records: Mapping[int | None, Source], folder: Path) -> dict[int | None, Source]:
    """Records whose monotonic clock is set to the wall clock, by the file that was written soonest after its error."""
    offsets = [
        (folder / r.name).stat().st_mtime - r.clock_s
        for r in records.values()
        if r.clock_s is not None and (folder / r.name).exists()
    ]
    if not offsets:
        return dict(records)
    return {
        rank: replace(r, time_s=r.clock_s + min(offsets)) if r.clock_s is not None else r for rank, r in records.items()
    }


def exit_codes(path: Path) -> dict[int, int]:
    """rank → exit status, from a run's events.jsonl or failure.json: signals leave no text of their own."""
    codes: dict[int, int] = {}
    text = read_capped(path)
    for line in text.splitlines() if path.suffix == ".jsonl" else [text]:
        if "code" not in line:
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        rank, code = values(event, ("rank",)), values(event, ("process_exit_code", "exitcode", "exit_code"))
        if isinstance(rank, int) and isinstance(code, int) and code:
            codes.setdefault(rank, code)
    return codes
