"""Time in which the agent did not run says nothing of the ranks."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

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


THREAD = "Current thread 0x00007f02 (most recent call first):\n"
TORCH = "/site-packages/torch/distributed"
CALLS = {
    "recv (p2p.py:9)": [
        (f"{TORCH}/distributed_c10d.py", 2700, "recv"),
        (f"{TORCH}/c10d_logger.py", 83, "wrapper"),
        ("/code/p2p.py", 9, "<module>"),
    ],
    "init_process_group (train.py:5)": [
        (f"{TORCH}/rendezvous.py", 200, "_create_c10d_store"),
        (f"{TORCH}/distributed_c10d.py", 1700, "init_process_group"),
        (f"{TORCH}/c10d_logger.py", 83, "wrapper"),
        ("/site-packages/launcher/worker/runtime/flight.py", 126, "arm_and_begin"),
        ("/code/train.py", 5, "<module>"),
    ],
    "forward (trainer.py:70)": [
        (f"{TORCH}/../nn/parallel/distributed.py", 1700, "_sync_buffers"),
        (f"{TORCH}/../nn/parallel/distributed.py", 1600, "forward"),
        (f"{TORCH}/../nn/modules/module.py", 1780, "_call_impl"),
        ("/code/trainer.py", 70, "step"),
    ],
    "": [
        ("/code/train.py", 3, "load"),
        (f"{TORCH}/../nn/modules/module.py", 1780, "_call_impl"),
        ("/code/a.py", 1, "f"),
    ],
}
"""The call of the program's in which a stack ends, and the stack."""


def _stack(frames: list[tuple[str, int, str]]) -> str:
    return THREAD + "".join(f'  File "{file}", line {line} in {function}\n' for file, line, function in frames)


@pytest.mark.parametrize("call", CALLS)
def test_the_call_in_which_a_rank_stands_is_named_with_the_programs_line(call: str):
    assert call == stall.call_of(_stack(CALLS[call]))


def test_ranks_that_wait_in_calls_of_their_own_are_said_with_them(tmp_path: Path):
    """Point-to-point calls are in no record: that both receive is seen here alone."""
    receiving, in_forward, elsewhere = (
        stall.Seen(n, 0, "x", 6.0, "S", _stack(CALLS[call]))
        for n, call in enumerate(("recv (p2p.py:9)", "forward (trainer.py:70)", ""))
    )
    other = stall.Seen(3, 0, "x", 6.0, "S", receiving.stack)

    def said(*seen: stall.Seen) -> str:
        return stall._record(seen[0], list(seen), tmp_path).what.partition("; ")[2]

    assert "it waits in recv (p2p.py:9), and so does rank 3" == said(receiving, other)
    assert "it waits in recv (p2p.py:9), and rank 1 in forward (trainer.py:70)" == said(receiving, in_forward)
    assert "ranks 0, 3 wait for it in recv (p2p.py:9)" == said(elsewhere, receiving, other)


def test_a_rank_that_waits_for_a_call_that_goes_on_beside_it_waits(tmp_path: Path):
    """The C++ of work.wait() has no frame: the line of the program tells."""
    program = tmp_path / "train.py"
    program.write_text("work = dist.all_reduce(x, async_op=True)\nwork.wait()\nload()\nos.wait()\n")
    waiting, *others = (stall.Seen(n, 0, "x", 6.0, "S", _stack([(str(program), n + 2, "f")])) for n in (0, 1, 2))

    assert [True, False, False] == [stall.waits(one) for one in (waiting, *others)]
    assert "wait (train.py:2)" == stall.call_of(waiting.stack)


def test_a_rank_whose_program_has_ended_is_said_to_wait_for_what_it_started(tmp_path: Path):
    frames = [("/lib/python3.11/threading.py", 1590, "_shutdown"), ("/x/launcher/worker/agent/ending.py", 53, "end")]
    record = stall._record(stall.Seen(1, 20, "the end", 6.0, "S", _stack(frames)), [], tmp_path)

    assert "rank 1 has not moved since the end of step 20" in record.what
    assert "its program has ended, and Python waits for a thread" in record.what
    assert "launcher" not in record.traceback
