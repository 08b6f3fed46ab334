"""What the ends of an agent's processes mean: which failed, which only followed, and whose failure came first."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.recipe.program import Program
from launcher.rundir import events
from launcher.rundir.paths import LAST_WORDS, RunDir
from launcher.rundir.records import Failure
from launcher.worker.agent import collectives, zygote
from launcher.worker.agent.children import Child
from launcher.worker.agent.rank_env import torchelastic_error
from launcher.worker.runtime import failure


@dataclass(frozen=True)
class Judge:
    """Judges the processes of one attempt on this node."""

    run_dir: RunDir
    plan: Plan
    node_rank: int
    attempt: int
    program: Program | None
    children: Sequence[Child]

    def _record(self, child: Child) -> Failure | None:
        record = events.read_failure(zygote.error_path(self.run_dir, self.attempt, child.rank))
        if record is None and self.program is not None and child.rank is not None:
            return failure.of_torchelastic(torchelastic_error(self.run_dir, self.attempt, child.rank))
        return record

    def _is_early(self, child: Child) -> bool:
        """Whether a rank ended with code 0 and without having done its work."""
        if child.exit_code != 0 or child.rank is None:
            return False
        return not zygote.done_path(self.run_dir, self.attempt, child.rank).exists()

    def is_done(self) -> bool:
        """Whether every rank of this node has done its work: then a request to stop came too late to matter. A program
        of the user's may end with 0 because it was asked to stop."""
        return (
            bool(self.children)
            and self.program is None
            and all(c.rank is not None and c.exit_code == 0 and not self._is_early(c) for c in self.children)
        )

    def has_failed(self, child: Child) -> bool:
        """Whether it has ended, and not as it should."""
        if child.exit_code is None:
            return False
        if self.program is not None:  # its own exit codes mean nothing to us, and ending by os._exit(0) is its right
            return bool(child.exit_code) and not self._was_preempted(child)
        return not failure.is_preempted(child.exit_code) and (bool(child.exit_code) or self._is_early(child))

    def followed(self, child: Child) -> bool:
        """Whether it failed because another process did, as it says itself."""
        record = self._record(child)
        return record is not None and record.weight != failure.CAUSE

    def may_be_of_a_collective(self, child: Child) -> bool:
        """Whether it may have failed because ranks were not in the same collective."""
        record = self._record(child) or failure.of_exit(child.exit_code or 0, child.log)
        return collectives.may_be_meant(record.but(process_exit_code=child.exit_code))

    def was_preempted(self) -> bool:
        """Whether a rank ended as one that was asked to stop, and not by this agent because of another's failure."""
        return any(self._was_preempted(c) and not c.was_signalled for c in self.children)

    def _was_preempted(self, child: Child) -> bool:
        """Whether it has saved and ended as one that was asked to stop; of a program, 143 alone does not say so."""
        if not failure.is_preempted(child.exit_code) or self.program is None:
            return failure.is_preempted(child.exit_code)
        return child.rank is not None and self.run_dir.preempted_mark(self.attempt, child.rank).exists()

    def first_failure(self, oom_kills: int = 0) -> Failure | None:
        """The failure that came first; None where none failed of itself. `oom_kills` is how often the kernel killed
        for memory meanwhile."""
        located = []
        for child in self.children:
            if not self.has_failed(child):
                continue
            record = self._record(child)
            if record is None:
                if child.was_signalled:
                    continue
                record = failure.of_exit(child.exit_code or 0, child.log, oom_kills)
                record = record.but(time_ns=child.ended_ns, time=time.time())
            located.append(self._located(child, record))
        return failure.first([*located, *self._left_early()] if located else located)

    def _left_early(self) -> list[Failure]:
        """Ranks of a program that ended with code 0 before the others did, at their end or by os._exit(0). That is a
        failure only where others went down, and a cause only where those say no more than that a peer is gone."""
        if self.program is None or self.program.kind == "executable":
            return []
        return [
            self._located(child, self._of_early_end(child)).but(
                time_ns=child.ended_ns, time=time.time(), weight=failure.IN_FLIGHT
            )
            for child in self.children
            if child.exit_code == 0 and child.rank is not None and not child.was_signalled
        ]

    def _of_early_end(self, child: Child) -> Failure:
        record = failure.of_exit(0, child.log)
        if self._is_early(child):
            return record
        what = Message(
            "ended with exit code 0 while other ranks waited for it: it came to its end without a call that they make"
        )
        hint = Message("make the same collective calls on every rank; {hint}", hint=record.hint)
        return record.but(message=what, what=what, hint=hint)

    def _located(self, child: Child, record: Failure) -> Failure:
        local_rank = None if child.rank is None else child.rank - self.node_rank * self.plan.nproc_per_node
        return record.but(
            rank=child.rank,
            local_rank=local_rank,
            node_rank=self.node_rank,
            host=socket.gethostname(),
            attempt=self.attempt,
            process_exit_code=child.exit_code,
            log=str(child.log),
        )


def leave(run_dir: RunDir, record: Failure) -> None:
    """failure.json; where the disk takes nothing any more, the launcher still hears of it."""
    try:
        events.write_failure(run_dir.failure_path, record)
    except OSError as error:
        unwritten = Message(
            "{failure_path} could not be written either: {problem}",
            failure_path=run_dir.failure_path,
            problem=error.strerror,
        )
        record = record.but(hint=f"{record.hint}; {unwritten}")
        if LAST_WORDS not in os.environ:  # started by hand
            raise
        os.write(int(os.environ[LAST_WORDS]), json.dumps(record.to_json()).encode())


def oom_kills() -> int:
    """How often the kernel killed for memory in this container so far; 0 where that is unknown."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError, ValueError):
            for line in Path(path).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0
