"""Training on one rank: what works beside the trainer is built here, in one order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import TrainingArguments

from launcher import files, network
from launcher.messages import plural
from launcher.planning.plan import Plan
from launcher.recipe import metrics
from launcher.rundir import records
from launcher.rundir.paths import RunDir
from launcher.rundir.prepared import Prepared
from launcher.worker.batching import splits
from launcher.worker.checkpoints.store import Store
from launcher.worker.data import prepare
from launcher.worker.engines import checks, device, table
from launcher.worker.engines.device import Rank
from launcher.worker.models import load
from launcher.worker.models.tokenizer import load_tokenizer
from launcher.worker.runtime.events import Events
from launcher.worker.runtime.heartbeat import Heart
from launcher.worker.runtime.peers import Peers
from launcher.worker.runtime.stop_signals import EvaluationStopped
from launcher.worker.tasks import table as tasks
from launcher.worker.training.beats import Beats
from launcher.worker.training.early_stop import EarlyStop
from launcher.worker.training.losswatch import LossWatch
from launcher.worker.training.progress import Progress
from launcher.worker.training.rates import Rates
from launcher.worker.training.results import write_predictions
from launcher.worker.training.stop import Schedule, Stop, StopReport
from launcher.worker.training.trainer import RecipeTrainer
from launcher.worker.training.writing import Writing
from launcher.worker.weights import trained

if TYPE_CHECKING:
    from datasets import Dataset

    from launcher.worker.tasks.base import Task

DEFAULT_TIMEOUT_S = 1800
"""TrainingArguments' own ddp_timeout."""


def train_on_rank(plan: Plan, run: RunDir, rank: Rank, heart: Heart) -> None:
    prepared, events = begin(plan, run, rank, heart)
    trainer = build(plan, run, rank, prepared, events, heart)
    checkpoint = trainer.store.find()
    heart.beat("wrapping the model")
    output = trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    if plan.debug:
        return  # a few steps were asked for; nothing of them is worth keeping
    heart.beat("last evaluation")
    final = _final_evaluation(trainer)
    heart.beat("saving the model")
    trainer.publish_model(run.model_dir)
    if rank.is_first:
        events.emit(records.Model(path=str(run.model_dir)))
        if trainer.predictions is not None:
            write_predictions(run, plan.recipe, prepared, trainer.predictions)
        _write_results(plan, run, trainer, final, output.metrics)
        end(events, final)
        if trainer.predictions is not None:
            trainer.predictions.require_scores(run.metrics_path)
            trainer.require_figures(run.metrics_path)


def end(events: Events, final: dict[str, Any]) -> None:
    events.emit(records.End(more={k: v for k, v in final.items() if isinstance(v, int | float)}))


def begin(plan: Plan, run: RunDir, rank: Rank, heart: Heart) -> tuple[Prepared, Events]:
    heart.beat("starting", 0)
    device.prepare_env(plan, os.environ)
    device.set_threads()
    events = Events(run.events_path, enabled=rank.is_first)
    prepared = prepare.prepared_for(plan, run)
    for text in prepared.notes:
        events.emit(records.Note(text=text))
    counts = {k: split.label_counts for k in ("train", "eval") if (split := getattr(prepared, k)) is not None}
    events.emit(records.Start(more={**run_facts(plan), "label_counts": counts}))
    return prepared, events


def run_facts(plan: Plan) -> dict[str, Any]:
    return {
        "world_size": plan.world_size,
        "strategy": plan.strategy,
        "precision": plan.precision,
        "device": plan.device,
    }


def build(plan: Plan, run: RunDir, rank: Rank, prepared: Prepared, events: Events, heart: Heart) -> RecipeTrainer:
    """Join the other ranks, load the model, and make the trainer with all that works beside it. Every rank must call it."""
    transformers.utils.logging.disable_progress_bar()
    args, peers = _join(plan, run, rank, heart)
    heart.beat("loading the model")
    # The head that a pretrained model lacks is drawn from this seed, so it is the same on all ranks.
    transformers.set_seed(args.seed)
    tokenizer = load_tokenizer(plan.recipe, Path(prepared.tokenizer_path))
    model = load.load_model(plan, prepared, tokenizer)
    epochs: list[dict[str, Any]] = []
    loss_sum = torch.zeros((), device=args.device)
    schedule = Schedule()
    store = Store(run.checkpoints, plan, peers, events, heart)
    watch = LossWatch(loss_sum.clone, plan.precision, peers)
    early_stop = EarlyStop(plan.recipe.early_stopping, events)
    report = StopReport(peers, events, saved_step=lambda: store.saved_step)
    task = tasks.of(plan.recipe).for_model(plan, prepared, tokenizer, model)
    rows = _trained_on(plan, prepared, task)
    if isinstance(rows, splits.Packed) and (few := few_sequences(len(rows), plan.batch.global_size)):
        events.emit(records.Note(text=few))
    evaluated = splits.open_splits(prepared.evaluated) if prepared.evaluated else None
    writing = _writing(plan, rank, model, tokenizer, evaluated, peers=peers, events=events, heart=heart)
    trainer = RecipeTrainer(
        plan=plan,
        rank=rank,
        task=task,
        num_labels=prepared.num_labels,
        peers=peers,
        label_names=prepared.label_names,
        store=store,
        schedule=schedule,
        epochs=epochs,
        note=trained.note(plan, prepared.label_names),
        loss_sum=loss_sum,
        check_losses=watch.look,
        leave=report.leave,
        early_stop=early_stop,
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=rows,
        eval_dataset=evaluated,
        writing=writing,
        eval_sets=splits.parts(prepared.evals),
    )
    progress = Progress(
        events,
        epochs,
        metrics.figure_names(trainer.metric_names),
        check_engine=trainer.check_engine,
        take_epoch_loss=trainer.take_epoch_loss,
        eval_progress=lambda: trainer.eval_progress,
        has_best_model=lambda: trainer.has_best_model,
        set_names=tuple(trainer.eval_sets),
    )
    rates, stop = Rates(trainer.meter, peers, events), Stop(peers, schedule, report, trainer.begin)
    for callback in (progress, Beats(heart), watch, rates, early_stop, stop):
        trainer.add_callback(callback)
    return trainer


def _writing(
    plan: Plan,
    rank: Rank,
    model: Any,
    tokenizer: Any,
    rows: Dataset | None,
    *,
    peers: Peers,
    events: Events,
    heart: Heart,
) -> Writing | None:
    if plan.recipe.generation is None or rows is None:
        return None

    def beat() -> None:
        heart.beat("generation")

    return Writing(plan, rank, model, tokenizer, rows, peers=peers, events=events, beat=beat)


def _trained_on(plan: Plan, prepared: Prepared, task: Task) -> Dataset | splits.Packed | None:
    if prepared.train is None:
        return None
    rows = splits.open_split(prepared.train)
    return splits.packed(rows, plan.recipe.data.max_length) if task.packs_rows else rows


def few_sequences(count: int, global_size: int) -> str | None:
    """What the user should know where all rows of an epoch, packed, are fewer than a batch."""
    if count >= global_size:
        return None
    return plural(
        "all rows are packed into {count} sequence, fewer than parallel.global_batch_size ({size}): an epoch is one step",
        "all rows are packed into {count} sequences, fewer than parallel.global_batch_size ({size}): an epoch is one step",
        count=count,
        size=global_size,
    )


def _join(plan: Plan, run: RunDir, rank: Rank, heart: Heart) -> tuple[TrainingArguments, Peers]:
    timeout_s = plan.training_arguments.get("ddp_timeout", DEFAULT_TIMEOUT_S)
    heart.beat("joining the others")
    deepspeed_path = str(run.deepspeed_path) if plan.sharing.needs_deepspeed else None
    with network.no_name_server(os.environ):
        table.of(plan).join(plan, timeout_s=timeout_s)
        args = device.training_arguments(plan, output_dir=str(run.checkpoints), deepspeed_path=deepspeed_path)
    checks.check_world(plan, rank, args)
    return args, Peers(timeout_s=timeout_s)


def _final_evaluation(trainer: RecipeTrainer) -> dict[str, Any]:
    """Figures of the model that is saved; evaluated again only where the last evaluation was of other weights."""
    if trainer.eval_dataset is None:
        return {}
    lacks_texts = trainer.plan.recipe.generation is not None and not trainer.has_texts
    trainer.expect_last_evaluation()
    if trainer.figures_step != trainer.state.global_step or trainer.args.load_best_model_at_end or lacks_texts:
        try:
            trainer.evaluate()
        except EvaluationStopped:
            trainer.stop_after_training()
    return plain(trainer.figures)


def plain(figures: dict[str, Any]) -> dict[str, Any]:
    keep = ("eval_loss", "eval_samples", "eval_runtime", "eval_samples_per_second")
    return {k if k in keep else k.removeprefix("eval_"): v for k, v in figures.items()}


def _write_results(
    plan: Plan, run: RunDir, trainer: RecipeTrainer, final: dict[str, Any], train: dict[str, Any]
) -> None:
    facts = run_facts(plan)
    if trainer.predictions is not None:
        facts |= trainer.predictions.macro_facts(num_labels=trainer.num_labels) | trainer.predictions.unscored_facts()
    if trainer.has_best_model:
        facts["best"] = trainer.best_facts()
    facts |= trainer.early_stop.facts
    state = trainer.state
    figures = {
        "global_step": state.global_step,
        "train_loss": trainer.mean_train_loss,
        **{k: train[k] for k in ("train_runtime", "train_samples_per_second", "train_steps_per_second")},
        "total_flos": state.total_flos,
        "epoch": state.epoch,
    }
    files.write_json(run.metrics_path, {**facts, "epochs": trainer.epochs, "final": final, "train": figures})
