"""Follow a job in a queue from the machine that submitted it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from launcher.clusters.submission import Job, Queue
from launcher.rundir import events
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event

POLL_S = 0.5
ASK_EVERY_S = 2.0
"""How often the scheduler is asked: every client's question costs its controller."""
UNKNOWN_S = 30.0
"""How long it may say that it knows no such job before the job's end is read from the run directory."""
LAG_S = 10.0
"""After the end of a job, its last files may take that long to be seen through a network file system."""


def follow(
    queue: Queue,
    job: str,
    run: RunDir,
    output: Path,
    env: Mapping[str, str],
    on_event: Callable[[Event], None],
    on_state: Callable[[Job], None],
) -> Outcome:
    """Hand on the job's states and the run's events until it has ended for good; a requeued job is followed on.

    The run directory must be on a file system that this machine shares; where it is not, there are only states.
    """
    offset, latest, asked_s, known_s = 0, Job(job), float("-inf"), time.monotonic()
    while True:
        now = time.monotonic()
        if now - asked_s >= ASK_EVERY_S:
            asked_s, state = now, queue.look(job, env)
            if state is not None and state.state:
                known_s = now
                is_over = state.has_ended and not (state.may_start_again and state.state != latest.state)
                if (state.state, state.reason, state.restarts) != (latest.state, latest.reason, latest.restarts):
                    on_state(state)
                latest = state
                if is_over:
                    break
            elif state is not None and now - known_s > UNKNOWN_S:
                latest = latest if latest.state else state
                break
        offset = events.forward_events(run.events_path, offset, on_event)
        time.sleep(POLL_S)
    deadline = time.monotonic() + (LAG_S if run.path.exists() and not latest.was_cancelled else 0)
    while not (run.metrics_path.exists() or run.failure_path.exists() or time.monotonic() > deadline):
        time.sleep(POLL_S)
    events.forward_events(run.events_path, offset, on_event)
    return queue.outcome(latest, run, output)
