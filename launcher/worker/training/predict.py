"""Answers to rows: a rank takes chunks of rows out of a folder, and puts chunks of answers beside them.

The launcher writes `in_<k>.json` (a list of texts, or of conversations) and reads `out_<k>.json`; rank r answers every k with k % ranks == r.
A chunk lies there until its answers were read, so a rank that is started again finds what the one before it owed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from launcher import files
from launcher.errors import LaunchError
from launcher.recipe import schema
from launcher.rundir import events, records
from launcher.rundir.chunks import Chunks
from launcher.rundir.paths import RunDir
from launcher.rundir.prepared import Prepared
from launcher.worker.data import cache
from launcher.worker.engines import device
from launcher.worker.models import load
from launcher.worker.models.folder import load_config
from launcher.worker.models.tokenizer import load_tokenizer, notes, tokenizer_folder
from launcher.worker.runtime import stop_signals
from launcher.worker.runtime.stop_signals import Preempted
from launcher.worker.tasks import table
from launcher.worker.training import precision
from launcher.worker.weights import trained as trained_weights

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.worker.engines.device import Rank
    from launcher.worker.runtime.heartbeat import Heart


IDLE_S = 0.005


def prepare(plan: Plan, run: RunDir) -> None:
    """Once a node, before its ranks: find the weights, and check that texts can become rows for them.

    Raises:
        LaunchError: what the user must change.
    """
    transformers.utils.logging.disable_progress_bar()
    assert plan.use is not None
    trained = trained_weights.trained(plan.recipe, plan.use.weights, seed=plan.training_arguments.get("seed", 42))
    for text in trained.notes:
        events.append_event(run.events_path, records.Note(text=text))
    load.look(plan.recipe, plan.device, trained.model, is_trained=True)
    config = load_config(plan.recipe, trained.model)
    recipe = trained_weights.with_labels(plan.recipe, config, trained)
    folder = tokenizer_folder(recipe, trained.tokenizer)
    tokenizer = load_tokenizer(recipe, folder)
    notes(recipe, tokenizer, config)
    if plan.use.chats and tokenizer.chat_template is None:
        raise LaunchError(
            "{folder}: the tokenizer has no chat template, which says how a model is asked",
            hint="name the one that it was trained with: --chat-template chatml, plain, or a Jinja file",
            folder=folder,
        )
    names = recipe.model.label_names or tuple(map(str, range(schema.num_labels(recipe))))
    encode = table.of(recipe).encoder(recipe, tokenizer, names)
    prepared = Prepared(
        key=cache.key([str(trained.folder)]),
        model_path=str(trained.model),
        model_is_random=False,
        tokenizer_path=str(folder),
        num_labels=len(names),
        label_names=names,
        train=None,
        eval=None,
        answer_ids=encode.answer_ids,
        sample={},
        notes=(),
        adapter_path=str(trained.folder) if trained.base else None,
        weights=trained.facts(),
    )
    files.write_json(run.data_path, asdict(prepared))


def main(plan: Plan, run: RunDir, rank: Rank, heart: Heart) -> None:
    """Answer this rank's chunks until there are no more."""
    heart.beat("starting", 0)
    device.set_threads()
    prepared = Prepared.load(run.data_path)
    assert prepared is not None
    chunks = Chunks(run.chunks_path)
    if plan.sharing.shards_parameters:
        from launcher.worker.training import write_sharded

        write_sharded.answer(plan, run, rank, prepared, heart, chunks)
        return
    heart.beat("loading the model")
    where = device.place(plan, rank)
    done = 0
    answers = answering(plan, prepared, where, lambda: heart.beat("predicting", done))
    events.append_event(run.events_path, records.Ready(rank=rank.index, device=str(where)))
    while True:
        if stop_signals.received() is not None:
            raise Preempted
        waiting, is_end = chunks.waiting()
        mine = [k for k in waiting if k % plan.data_parallel_size == plan.data_parallel_rank(rank.index)]
        if mine:
            heart.beat("predicting", done)
            rows = json.loads(chunks.rows(mine[0]).read_text(encoding="utf-8"))
            files.write_text(chunks.answers(mine[0]), files.json_text(answers(rows)))
            done += 1
        elif is_end:
            return
        else:
            if not waiting:  # a rank that waits for input lives; one that waits for others leaves the beating to them
                heart.beat("waiting for rows", done)
            time.sleep(IDLE_S)


def answering(
    plan: Plan, prepared: Prepared, where: torch.device, beat: Callable[[], None]
) -> Callable[[list[Any]], list[Any]]:
    """What answers the rows of a chunk. `beat`: a sign of life, called now and then."""
    if plan.recipe.task.writes:
        from launcher.worker.training.write import Writer

        return Writer.whole(plan, prepared, where, beat)
    return Predictor(plan, prepared, where)


def by_column(items: list[Any], names: tuple[str, ...]) -> dict[str, list[Any]]:
    """Rows as columns: of one column a row is its text (which may be empty) or words, of several a list of them."""
    if len(names) == 1:
        return {names[0]: items}
    return {name: [item[i] for item in items] for i, name in enumerate(names)}


class Predictor:
    """Texts in, the task's answers out, in the same order."""

    def __init__(self, plan: Plan, prepared: Prepared, where: torch.device) -> None:
        recipe, names = plan.recipe, prepared.label_names
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"label_names": names})})
        self._tokenizer = load_tokenizer(recipe, Path(prepared.tokenizer_path))
        self._encode = table.of(recipe).encoder(recipe, self._tokenizer, names)
        self._columns = tuple(recipe.task.reads(recipe.data).values())
        self._model = load.load_model(plan, prepared, self._tokenizer).to(where).eval()
        self._task = table.of(recipe).for_model(plan, prepared, self._tokenizer, self._model)
        self._where = where
        self._size = plan.batch.eval_size
        self._precision = precision.of(plan, where)

    def __call__(self, items: list[Any]) -> list[Any]:
        encoded = self._encoded(items)
        order = sorted(range(len(items)), key=lambda i: -len(encoded[i]["input_ids"]))
        results: list[Any] = [None] * len(items)
        for start in range(0, len(order), self._size):
            rows = order[start : start + self._size]
            batch = self._task.collate([{**encoded[i], "labels": 0} for i in rows])
            with torch.no_grad(), self._precision:
                answers = self._task.answers(self._model, {k: v.to(self._where) for k, v in batch.items()})
            for i, answer in zip(rows, answers, strict=True):
                results[i] = answer
        return results

    def _encoded(self, items: list[Any]) -> list[dict[str, Any]]:
        """What the model sees of each row: its ids, and what else the task has of rows that it reads by columns."""
        if self._encode.rows is None:
            return [{"input_ids": ids} for ids in self._encode.ids(items)]
        encoded = self._encode.rows(by_column(items, self._columns))
        return [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
