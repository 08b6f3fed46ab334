"""An evaluation of trained weights on one rank."""

from __future__ import annotations

from launcher import files
from launcher.planning.plan import Plan
from launcher.rundir import records
from launcher.rundir.paths import RunDir
from launcher.worker.engines.device import Rank
from launcher.worker.runtime.heartbeat import Heart
from launcher.worker.runtime.stop_signals import EvaluationStopped, Preempted
from launcher.worker.training.results import write_predictions
from launcher.worker.training.train import begin, build, end, plain, run_facts


def evaluate_on_rank(plan: Plan, run: RunDir, rank: Rank, heart: Heart) -> None:
    """Evaluate trained weights once, as the training did after an epoch."""
    prepared, events = begin(plan, run, rank, heart)
    trainer = build(plan, run, rank, prepared, events, heart)
    heart.beat("wrapping the model")
    events.emit(records.Engine.of(trainer.wrap_for_evaluation()))
    try:
        trainer.evaluate()
    except EvaluationStopped:
        raise Preempted from None
    if rank.is_first:
        assert trainer.predictions is not None and plan.use is not None
        final = plain(trainer.figures)
        write_predictions(run, plan.recipe, prepared, trainer.predictions)
        predictions = trainer.predictions
        facts = run_facts(plan) | predictions.macro_facts(num_labels=trainer.num_labels) | predictions.unscored_facts()
        files.write_json(run.metrics_path, {**facts, "checkpoint": prepared.weights, "final": final})
        end(events, final)
        trainer.predictions.require_scores(run.metrics_path)
        trainer.require_figures(run.metrics_path)
