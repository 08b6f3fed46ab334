"""A training that no longer gets better ends, keeps its best model, and does so wherever it was interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.run import Ran, Run

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

WORDS = (
    "early_stopping={patience: 2, threshold: 0.2}",
    "training.eval_steps=5",
    "training.save_steps=5",
    "training.save_strategy=steps",
    "training.save_total_limit=9",
    "training.metric_for_best_model=accuracy",
    "training.learning_rate=0.01",
    "training.logging_steps=1",
    "parallel.micro_batch_size=3",
)


def test_it_ends_and_ends_the_same_after_an_interruption(ascend_launch: Callable[..., Ran], tmp_path: Path):
    """On two ranks: again from a checkpoint before the end, and from that of the end, in which nothing is left to train."""
    argv = ("--nproc", "2", "--device", "cpu", "--run-dir", tmp_path / "run", "recipes/tiny-cpu.yaml", *WORDS)
    first = ascend_launch(*argv)
    assert 0 == first.code, first.out + first.err
    run, kept = Run(tmp_path / "run"), Run(tmp_path / "kept")
    shutil.copytree(run.dir, kept.dir)
    facts, steps = kept.metrics["early_stopping"], kept.metrics["train"]["global_step"]
    figures = {event["step"]: event["accuracy"] for event in kept.events("eval")}

    assert facts["step"] == steps == max(figures) < facts["max_steps"] == 60
    assert {"metric": "accuracy", "evaluations": 2, "threshold": 0.2}.items() <= facts.items()
    assert max(figures.values()) == facts["best"] == kept.metrics["best"]["value"] == kept.metrics["final"]["accuracy"]
    assert f"ended early, at step {steps} of 60: in 2 evaluations in a row accuracy was no better" in first.out
    assert facts == kept.metrics["early_stopping"]

    for gone in ([steps], []):
        for name in (
            "model",
            "metrics.json",
            "predictions.jsonl",
            *(f"checkpoints/checkpoint-{step}" for step in gone),
        ):
            path = run.dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        again = ascend_launch(*argv)

        assert 0 == again.code, again.out + again.err
        assert kept.figures == run.figures
        for name, weights in load_file(kept.dir / "model" / "model.safetensors").items():
            assert torch.equal(weights, load_file(run.dir / "model" / "model.safetensors")[name])
