"""A recipe's loss gives the same training at any number of ranks and micro batches; a user's function is one like ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.ranks.test_sft import write_recipe
from tests.support.launch import REPO
from tests.support.run import Job, Ran

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

WORDS = ("training.num_train_epochs=1", "training.logging_steps=1", "data.train.limit=233", "metrics=[accuracy]")
WEIGHTS = (*WORDS, "model.class_weights={terrible: 3.5, good: 0.25}", "training.label_smoothing_factor=0.1")
MINE = """
import torch


def focal(logits, targets):
    log_p = torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2 * log_p).sum()


def averaged(logits, targets):
    return torch.nn.functional.cross_entropy(logits, targets)
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with a file of functions beside it."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MINE)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": str(REPO / "recipes" / "tiny-cpu.yaml"), "loss": "mine.py:focal"}))
    return path


def test_class_weights_do_not_depend_on_ranks(job: Callable[..., Job]):
    """A step's loss is the mean by weight over all its rows, smoothed too; the evaluation's is the plain one."""
    one = job(1, *WEIGHTS, "parallel.micro_batch_size=4")
    three = job(3, *WEIGHTS, "parallel.micro_batch_size=1", "parallel.strategy=zero2")
    assert 0 == three.code, three.out + three.err

    assert pytest.approx(one.losses, rel=1e-5) == three.losses
    assert pytest.approx(one.metrics["final"]["eval_loss"], rel=1e-4) == three.metrics["final"]["eval_loss"]
    assert "class weights: terrible 3.5, poor 1, average 1, good 0.25, excellent 1" in three.notes


def test_a_function_of_the_users_trains_as_ours_does(job: Callable[..., Job], mine: Path):
    """The focal loss written by hand, in shards on two ranks, is `loss: focal` on one."""
    ours, theirs = job(1, *WORDS, "loss=focal"), job(2, *WORDS, "parallel.strategy=zero3", recipe=mine)
    assert 0 == theirs.code, theirs.out + theirs.err

    assert pytest.approx(ours.losses, rel=1e-4) == theirs.losses
    assert pytest.approx(ours.metrics["final"]["eval_loss"], rel=1e-4) == theirs.metrics["final"]["eval_loss"]


def test_a_mean_is_refused_before_there_are_ranks(ascend_launch: Callable[..., Ran], mine: Path, tmp_path: Path):
    ran = ascend_launch("--device", "cpu", "--run-dir", tmp_path / "run", mine, "loss=mine.py:averaged")

    assert 2 == ran.code, ran.out + ran.err
    assert "mine.py:10: averaged: gives " in ran.err
    assert 'reduction="sum"' in ran.err


def test_tokens_have_a_focal_loss_too(job: Callable[..., Job], tmp_path: Path):
    """In chunks whose logits are made again, in shards on two ranks, with rows packed; the perplexity stays of cross entropy."""
    recipe, words = write_recipe(tmp_path), ("data.packing=true", "loss={name: focal, gamma: 1}")
    one = job(1, *words, "parallel.micro_batch_size=4", recipe=recipe)
    two = job(2, *words, "parallel.micro_batch_size=3", "parallel.strategy=zero3", recipe=recipe)
    assert 0 == two.code, two.out + two.err

    assert pytest.approx(one.losses, rel=1e-4) == two.losses
    assert pytest.approx(one.metrics["final"]["perplexity"], rel=1e-4) == two.metrics["final"]["perplexity"]
    plain = job(1, *words[:1], "parallel.micro_batch_size=4", recipe=recipe)
    assert all(0 < focal < other for focal, other in zip(one.losses, plain.losses, strict=True))
