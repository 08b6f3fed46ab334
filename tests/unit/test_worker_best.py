"""Which evaluation is the best, asked of Trainer through ours, without a model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy

from launcher.worker.training.resumable import ResumableTrainer


def trainer(strategy: SaveStrategy, *, loads_best: bool = True) -> ResumableTrainer:
    made = ResumableTrainer.__new__(ResumableTrainer)
    made.args = SimpleNamespace(
        load_best_model_at_end=loads_best, save_strategy=strategy, metric_for_best_model="mae", greater_is_better=False
    )
    made.control, made.state, made.store = TrainerControl(), TrainerState(), SimpleNamespace(saved_step=0)
    return made


def evaluate(made: ResumableTrainer, step: int, mae: float, *, saves: bool = False) -> None:
    made.state.global_step, made.control.should_save = step, saves
    made._determine_best_metric({"eval_mae": mae}, None)


def test_the_best_is_one_that_is_saved():
    """Evaluated every 3 steps and saved every 6: step 9 would be the best, and its weights are nowhere at the end."""
    made = trainer(SaveStrategy.STEPS)
    for step, mae in ((3, 0.5), (6, 0.4), (9, 0.1), (12, 0.3), (15, 0.2), (18, 0.35)):
        evaluate(made, step, mae, saves=step % 6 == 0)

    assert (12, 0.3) == (made.state.best_global_step, made.state.best_metric)


def test_an_evaluation_that_was_put_off_counts_where_its_step_is_saved():
    """After a stop in an evaluation the checkpoint is there, and the evaluation comes at the start of the next launch."""
    made = trainer(SaveStrategy.STEPS)
    made.store.saved_step = 7
    evaluate(made, 7, 0.2)

    assert 7 == made.state.best_global_step


@pytest.mark.parametrize(("strategy", "loads_best"), [(SaveStrategy.BEST, True), (SaveStrategy.STEPS, False)])
def test_other_schedules_count_every_evaluation(strategy: SaveStrategy, loads_best: bool):
    """By `best` a save follows the evaluation; where nothing is loaded, the figure alone is of interest."""
    made = trainer(strategy, loads_best=loads_best)
    evaluate(made, 3, 0.5)

    assert (3, 0.5) == (made.state.best_global_step, made.state.best_metric)


def test_what_was_kept_is_told_with_its_own_figure():
    """Of the checkpoint that is loaded, even where the save of a better step failed."""
    made = trainer(SaveStrategy.STEPS)
    made.state.best_global_step, made.state.best_metric = 12, 0.1
    made.state.best_model_checkpoint = "/run/checkpoints/checkpoint-6"
    made.state.log_history = [{"step": 6, "loss": 1.0}, {"step": 6, "eval_mae": 0.4}, {"step": 12, "eval_mae": 0.1}]

    assert {"step": 6, "metric": "mae", "value": 0.4} == made.best_facts()
