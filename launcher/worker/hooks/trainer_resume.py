"""After a restart: the checkpoint that a Trainer goes on from, where its program says nothing of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.messages import Message, translated
from launcher.rundir import events, records
from launcher.worker.hooks import saved

if TYPE_CHECKING:
    from launcher.worker.hooks.base import Watched
    from launcher.worker.runtime.peers import Peers


class Resumption:
    """Of a program's trainings, which a restart begins anew in the same order."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self.ordinal = 0
        """Which training of the program is under way; the first is 1."""

    def count(self) -> None:
        """Another training begins."""
        self.ordinal += 1

    def path(self, trainer: Any, peers: Peers) -> str | None:
        """The newest complete checkpoint that this training wrote in an earlier attempt of this run; None for none. The same
        on every rank, and for all ranks to call at the same point."""
        if self._watched.attempt == 0 or trainer.args.resume_from_checkpoint is not None:
            return None
        folder = Path(trainer.args.output_dir).absolute()
        checkpoint = peers.from_first(self._newest(folder))
        if checkpoint is None:
            return None
        if not all(peers.gather(Path(checkpoint).is_dir())):
            self._say(Message("ascend-launch: {path} is not on every node: not resumed from it", path=checkpoint))
            return None
        step = int(checkpoint.rpartition("-")[2])
        self._say(Message("ascend-launch: resume_from_checkpoint={path}", path=checkpoint))
        size = trainer.args.world_size
        self._watched.emit(records.Resume(path=checkpoint, step=step, world_size=size, saved_world_size=size))
        return checkpoint

    def _newest(self, folder: Path) -> str | None:
        """As rank 0's events have them: a folder may hold checkpoints of other runs, from which attempt 0 did not go on."""
        mine = [
            event
            for _, event in events.events(self._watched.run.events_path)
            if isinstance(event, records.Save) and event.more.get("training") == self.ordinal and event.path
        ]
        for event in reversed(mine):
            path = Path(event.path or "")
            if path.parent == folder and saved.is_complete(path, event.step):
                return str(path)
        return None

    def _say(self, text: str) -> None:
        if self._watched.is_first:
            print(translated(text), file=sys.stderr, flush=True)
