"""Time in which the agent did not run says nothing of the ranks."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from launcher.worker.agent import stall
from launcher.worker.runtime import heartbeat
from launcher.worker.runtime.heartbeat import Heart


def test_ranks_are_not_blamed_for_a_time_in_which_the_agent_stood_still(tmp_path: Path):
    """A machine that slept, or an agent that was stopped: the limit counts from then on, and is kept."""
    watch = stall.Watch(tmp_path, timeout_s=1.0)
    rank = subprocess.Popen(["bash", "-c", "trap '' USR2; sleep 30 & wait"])
    try:
        Heart(tmp_path / "beat_0").beat("training", 7)
        at_first = watch.look({0: rank.pid})
        time.sleep(stall.GAP_S + 0.5)
        after_the_gap = watch.look({0: rank.pid})
        found, deadline = None, time.monotonic() + 20
        while found is None and time.monotonic() < deadline:
            time.sleep(0.1)
            found = watch.look({0: rank.pid})
    finally:
        rank.kill()
        rank.wait()

    assert (None, None) == (at_first, after_the_gap)
    assert found is not None
    assert (0, "Stalled") == (found.rank, found.type)


def test_the_thread_that_records_collectives_is_not_shown_as_the_programs():
    ours = 'Thread 0x00007f01 (most recent call first):\n  File "/x/launcher/worker/runtime/flight.py", line 70 in serve\n\n'
    theirs = 'Current thread 0x00007f02 (most recent call first):\n  File "/code/train.py", line 8 in <module>\n'

    assert theirs == stall.OF_THE_AGENT.sub(
        "", ours + theirs + '  File "/x/launcher/worker/program.py", line 3 in run\n'
    )


def test_of_ranks_that_are_all_in_a_collective_none_is_said_to_keep_the_others(tmp_path: Path):
    stack = 'Current thread 0x00007f02 (most recent call first):\n  File "{}", line 8 in f\n'
    waiting = stack.format("/site-packages/torch/distributed/distributed_c10d.py")
    in_collective, elsewhere = (
        stall.Seen(0, 0, heartbeat.STARTED, 6.0, "S", text) for text in (waiting, stack.format("/code/train.py"))
    )
    peer = stall.Seen(1, 0, heartbeat.STARTED, 6.0, "S", waiting)

    assert "and so does rank 1" in stall._record(in_collective, [in_collective, peer], tmp_path).what
    assert "rank 1 waits for it" in stall._record(elsewhere, [elsewhere, peer], tmp_path).what
