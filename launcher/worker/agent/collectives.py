"""What ranks recorded of their collectives, asked for when a job stands still or a collective failed, and what it comes to."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launcher import files
from launcher.messages import Message
from launcher.rundir import collectives, paths
from launcher.rundir.collectives import Trace
from launcher.rundir.records import EXIT, STALLED, Failure
from launcher.worker.runtime import failure, flight

ANSWER_S = 5.0
"""What ranks get to write their records: some 0.2 s is usual, and more on a machine that has no core free."""
SENT = 64
"""Calls of each group and rank that another node is told of."""
_OF_A_COLLECTIVE = re.compile(r"gloo|hccl|process ?group|collective|\bEI\d{4}\b|between ranks", re.IGNORECASE)
"""What the message of an error says that a collective itself raised."""

Sent = dict[str, Any]
"""Traces of some ranks as JSON, by rank."""


def ask(folder: Path, ranks: Mapping[int, int]) -> None:
    """Have ranks that run (rank → pid) leave their records in an attempt's folder, and wait for it a while."""
    waited_for = {rank for rank, pid in ranks.items() if _ask(folder, rank, pid)}
    deadline = time.monotonic() + ANSWER_S
    while waited_for and time.monotonic() < deadline:
        time.sleep(0.02)
        waited_for = {rank for rank in waited_for if not flight.trace_path(folder, rank).exists()}


def collect(folder: Path) -> Sent:
    """The records that the ranks of an attempt that is over left in its folder; what only running ranks need is removed."""
    for path in folder.glob(flight.ask_path(folder, "*").name):
        with contextlib.suppress(OSError):  # a folder that is read-only by now; nothing reads it any more
            paths.remove(path)
    files_by_rank = {path.stem.rpartition("_")[2]: path for path in folder.glob(flight.trace_path(folder, "*").name)}
    traces = {
        rank: collectives.trace(files.read_json(path)) for rank, path in files_by_rank.items() if rank.isdecimal()
    }
    return {rank: one.latest(SENT).to_json() for rank, one in traces.items() if one is not None}


def _ask(folder: Path, rank: int, pid: int) -> bool:
    """Whether a rank could be asked, and has not left its record by itself."""
    if flight.trace_path(folder, rank).exists():
        return False
    with contextlib.suppress(OSError, ValueError):
        end = int(flight.ask_path(folder, rank).read_text(encoding="ascii"))
        handle = os.open(f"/proc/{pid}/fd/{end}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(handle, b"?")
        finally:
            os.close(handle)
        return True
    return False


def may_be_meant(record: Failure) -> bool:
    """Whether a failure may come of ranks that are not in the same collective: they stand still, one raised it, or the process
    was aborted."""
    return (
        record.weight != failure.CAUSE
        or record.type == STALLED
        or _is_abort(record)
        or bool(_OF_A_COLLECTIVE.search(record.message))
    )


def explained(decided: Failure | None, sent: Iterable[Sent]) -> Failure | None:
    """The failure that counts, with the first collective in which the ranks of all nodes part, where it may come of that."""
    if decided is None or not may_be_meant(decided):
        return decided
    traces: dict[int, Trace] = {}
    for rank, value in (row for one in sent for row in one.items()):
        one_trace = collectives.trace(value)
        if one_trace is not None and rank.isdecimal():
            traces[int(rank)] = one_trace
    if without := next((one.without_recorder for one in traces.values() if one.without_recorder), ""):
        text = Message(
            "{hint}; {torch} does not record gloo's collectives, as 2.10 and newer do, so none can be named",
            hint=decided.hint,
            torch=without,
        )
        return decided.but(hint=text.lstrip("; "))
    difference = collectives.first_difference(traces)
    if difference is None or (_is_abort(decided) and difference.how == collectives.MISSING):
        return decided  # nobody aborts because it did not come: the others wait because it aborted
    return decided.but(collective=difference.to_json())


def _is_abort(record: Failure) -> bool:
    return record.type == EXIT and record.process_exit_code == -signal.SIGABRT
