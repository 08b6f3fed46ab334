"""Texts of a model that no card holds whole: all ranks write at once, each its own rows, and keep step with each other."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import files
from launcher.rundir import events, records
from launcher.worker.engines import device
from launcher.worker.models.tokenizer import load_tokenizer
from launcher.worker.runtime import stop_signals
from launcher.worker.runtime.events import Events
from launcher.worker.runtime.peers import Peers
from launcher.worker.runtime.stop_signals import Preempted
from launcher.worker.training import train
from launcher.worker.training.write import Writer

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.rundir.chunks import Chunks
    from launcher.rundir.paths import RunDir
    from launcher.rundir.prepared import Prepared
    from launcher.worker.engines.device import Rank
    from launcher.worker.runtime.heartbeat import Heart

IDLE_S = 0.05


def answer(plan: Plan, run: RunDir, rank: Rank, prepared: Prepared, heart: Heart, chunks: Chunks) -> None:
    """Answer chunks, one a rank at a time, until there are no more."""
    device.prepare_env(plan, os.environ)
    trainer = train.build(plan, run, rank, prepared, Events(run.events_path, enabled=rank.is_first), heart)
    heart.beat("wrapping the model")
    trainer.wrap_for_evaluation()
    peers, done = Peers(), 0
    tokenizer = load_tokenizer(plan.recipe, Path(prepared.tokenizer_path))
    where = trainer.args.device
    writer = Writer(plan, tokenizer, trainer.model.eval(), where, lambda: heart.beat("predicting", done), peers)
    events.append_event(run.events_path, records.Ready(rank=rank.index, device=str(where)))
    while True:
        if any(peers.gather(stop_signals.received() is not None)):
            raise Preempted
        waiting, is_end = peers.from_first(chunks.waiting() if rank.is_first else None)
        if waiting:
            heart.beat("predicting", done)
            _answer_one(writer, chunks, waiting[rank.index : rank.index + 1])
            done += 1
        elif is_end:
            return
        else:
            heart.beat("waiting for rows", done)
            time.sleep(IDLE_S)


def _answer_one(writer: Writer, chunks: Chunks, mine: list[int]) -> None:
    """This rank's chunk, if there is one for it; the others are kept step with either way."""
    rows: list[Any] = json.loads(chunks.rows(mine[0]).read_text(encoding="utf-8")) if mine else []
    answers = writer(rows)
    if mine:
        files.write_text(chunks.answers(mine[0]), files.json_text(answers))
