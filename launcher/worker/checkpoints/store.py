"""Checkpoints that are whole or are not there: written aside, checked, published by one rename, and read back exactly.

A checkpoint is a folder `checkpoint-<step>` with the model in Hugging Face format, trainer_state.json, one
`state_<rank>.safetensors` a rank (see `state`), and manifest.json, which names every file with its size and SHA-256.
Nothing in it is a pickle, so reading one runs no code.

Nothing is lost by a save that fails: the older checkpoints are untouched, what was written aside is removed, and training
goes on, since its state is whole in memory and a disk that is full now may have room at the next save. Every such
failure is an event, with how many came in a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.files import write_json
from launcher.messages import Message
from launcher.rundir import paths, records
from launcher.worker.checkpoints.manifest import (
    TRAINER_STATE,
    Checkpoint,
    listed,
    manifest_facts,
    newest_whole,
    seal,
    state_file,
)
from launcher.worker.checkpoints.publish import (
    ASIDE,
    attempted,
    forget,
    is_ours,
    put_in_place,
    remove,
    remove_leftovers,
    sync_folder,
    synced,
)
from launcher.worker.checkpoints.tensorfile import Written, write
from launcher.worker.training.losswatch import NAN_REASONS, not_a_number

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.worker.runtime.events import Events
    from launcher.worker.runtime.heartbeat import Heart
    from launcher.worker.runtime.peers import Peers


@dataclass(frozen=True)
class Snapshot:
    """A training at one step, as one rank sees it. What takes memory is made only when it is asked for."""

    step: int
    epoch: float | None
    is_resumable: bool
    """False where only the model is saved."""
    save_total_limit: int | None
    """Checkpoints to keep; None or 0: all."""
    best_steps: frozenset[int]
    """Steps whose checkpoints are kept beyond that limit."""
    gathered_weights: Callable[[], dict[str, Tensor] | None]
    """The model's state dict on the first rank, gathered where it is sharded; every rank must call it."""
    state_of_rank: Callable[[], tuple[list[tuple[str, Tensor]], dict[str, Any]]]
    """What this rank's state file holds: tensors by name, and a tree of plain values."""
    trainer_state: Callable[[], dict[str, Any]]
    """trainer_state.json's content."""
    write_model: Callable[[Path, Any], None]
    """Write gathered weights and the tokenizer into a folder, in Hugging Face format."""


class Store:
    """The run's checkpoints, as all its ranks see them: find the one to go on from, save, and keep the number small."""

    def __init__(self, folder: Path, plan: Plan, peers: Peers, events: Events, heart: Heart) -> None:
        # Nodes may have folders of their own for logs; checkpoints are one folder, the first rank's.
        self.folder = Path(peers.from_first(str(folder)))
        self.peers = peers
        self._plan = plan
        self._heart = heart
        self.events = events
        self.failures_in_a_row = 0
        self.saved_step = -1
        """Of the newest checkpoint that is published or was resumed from."""

    def find(self) -> Checkpoint | None:
        """The checkpoint to resume from, the same on every rank; says which were passed over and why.

        The first rank reads and verifies. What a killed save left behind is removed.
        """
        self._heart.beat("finding a checkpoint")
        checkpoint: Checkpoint | None = None
        if self.peers.index == 0:
            remove_leftovers(self.folder)
            checkpoint, passed = newest_whole(self.folder)
            for one in passed:
                self.events.emit(
                    records.Note(text=Message("passed over {path}: {reason}", path=one.path.name, reason=one.reason))
                )
        checkpoint = self.peers.from_first(checkpoint)
        if checkpoint is not None:
            self.saved_step = checkpoint.step
        return checkpoint

    def save(self, snapshot: Snapshot) -> bool:
        """Write and publish a checkpoint; every rank must call it. Says so when it fails, and returns False.

        Raises:
            LaunchError: a weight is NaN.
        """
        start_s, step = time.monotonic(), snapshot.step
        aside = self.folder / f"{ASIDE}checkpoint-{step}"
        # Sharded weights are gathered here, before any file: a rank whose disk fails must not leave the others waiting.
        self._heart.beat("saving: gathering weights")
        weights = snapshot.gathered_weights()
        self._refuse_nan(step, weights)
        self._heart.beat("saving: writing")
        outcomes = self.peers.gather(attempted(lambda: self._write(snapshot, weights, aside)))
        self._heart.beat("saving: publishing")
        failure = next(
            (Message("rank {row}: {o}", row=r, o=o) for r, o in enumerate(outcomes) if isinstance(o, str)), None
        )
        if failure is None and self.peers.index == 0:
            files = [file for outcome in outcomes for file in outcome]
            failed = attempted(lambda: self._publish(snapshot, aside, files))
            failure = Message("rank 0: {failed}", failed=failed) if isinstance(failed, str) else None
        failure = self.peers.from_first(failure)
        if failure is not None:
            self._abandon(step, aside, failure)
            return False
        self.failures_in_a_row, self.saved_step = 0, step
        seconds = round(time.monotonic() - start_s, 3)
        path = self.folder / f"checkpoint-{step}"
        self.events.emit(records.Save(step=step, path=str(path), seconds=seconds))
        if self.peers.index == 0:
            self._rotate(snapshot)
        return True

    def _refuse_nan(self, step: int, weights: Any) -> None:
        """Raise LaunchError where a weight is NaN: a checkpoint of it would be gone on from, and older ones removed for it.
        The loss tells only at the step after."""
        bad = self.peers.from_first(not_a_number(weights) if self.peers.index == 0 else None)
        if bad is not None:
            raise LaunchError(
                Message(
                    "{bad} is not a number (NaN) after step {step}; no checkpoint of it is written", bad=bad, step=step
                ),
                hint=NAN_REASONS[self._plan.precision],
                exit_code=EXIT_JOB_FAILED,
                is_consequence=self.peers.index != 0,
            )

    def _write(self, snapshot: Snapshot, weights: Any, aside: Path) -> list[Written]:
        paths.make_folder(aside)
        written: list[Written] = []
        if snapshot.is_resumable:
            tensors, tree = snapshot.state_of_rank()
            written.append(write(aside / state_file(self.peers.index), tensors, tree))
        if self.peers.index == 0:
            snapshot.write_model(aside, weights)
            write_json(aside / TRAINER_STATE, snapshot.trainer_state())
            known = {file.name for file in written}
            others = [p for p in sorted(aside.rglob("*")) if p.is_file() and not p.name.startswith("state_")]
            written += [synced(p, aside) for p in others if p.name not in known]
        return written

    def _publish(self, snapshot: Snapshot, aside: Path, files: list[Written]) -> None:
        for file in files:
            if not (aside / file.name).exists():
                raise OSError(
                    0,
                    Message(
                        "{file} is not on the first node: all nodes must share {folder}",
                        file=file.name,
                        folder=self.folder,
                    ),
                )
        seal(aside, manifest_facts(self._plan, snapshot.step, snapshot.epoch, resumable=snapshot.is_resumable), files)
        sync_folder(aside)
        # One of that name may be there: passed over, or of the same step before an interruption.
        put_in_place(self.folder / f"checkpoint-{snapshot.step}", aside)

    def _abandon(self, step: int, aside: Path, failure: str) -> None:
        self.failures_in_a_row += 1
        if self.peers.index == 0:
            forget(aside)
        count = (
            Message(" ({failures_in_a_row} in a row)", failures_in_a_row=self.failures_in_a_row)
            if self.failures_in_a_row > 1
            else ""
        )
        kept = (
            Message("checkpoint-{saved_step} is still there", saved_step=self.saved_step)
            if self.saved_step >= 0
            else Message("there is no older one")
        )
        self.events.emit(
            records.Note(
                text=Message(
                    "step {step} could not be saved{count}: {failure}; {kept}, and training goes on",
                    step=step,
                    count=count,
                    failure=failure,
                    kept=kept,
                ),
                failed_saves=self.failures_in_a_row,
            )
        )

    def _rotate(self, snapshot: Snapshot) -> None:
        limit = snapshot.save_total_limit
        if limit is None or limit <= 0:
            return
        mine = [(step, path) for step, path in listed(self.folder) if is_ours(path, step)]
        keep = {step for step, _ in mine[-limit:]} | {self.saved_step} | snapshot.best_steps
        for step, path in mine:
            if step not in keep:
                remove(path)
