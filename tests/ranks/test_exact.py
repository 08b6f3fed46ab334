"""The same recipe gives the same losses and exact metrics at any number of ranks, under any strategy."""

from __future__ import annotations

import itertools
import os

import pytest
import sklearn.metrics
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.support.launch import REPO
from tests.support.run import Job

pytestmark = pytest.mark.ranks

WORDS = (
    "training.num_train_epochs=1",
    "training.logging_steps=1",
    "data.train.limit=233",  # 19 full steps of 12 and one that has to be filled
    "metrics=[accuracy, precision, recall, f1, mae, confusion_matrix]",
)
MICRO = {1: 4, 2: 3, 3: 4, 4: 1}
"""Micro batch at each rank count: accumulation is then 3, 2, 1 and 3."""

SHARDED = ("zero1", "zero2", "zero3")
PROOF = (
    ("ddp", 1),
    ("ddp", 2),
    ("ddp", 3),
    ("ddp", 4),
    ("zero2", 2),
    ("zero3", 2),
    ("fsdp2", 2),
)
MORE = tuple(c for c in (*itertools.product(("ddp", *SHARDED), (1, 2, 3, 4)), ("fsdp2", 3)) if c not in PROOF)


def words(strategy, ranks):
    return (*WORDS, f"parallel.strategy={strategy}", f"parallel.micro_batch_size={MICRO[ranks]}")


@pytest.mark.parametrize(
    ("strategy", "ranks"), [*PROOF, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_metrics_and_losses_do_not_depend_on_ranks_or_strategy(job, strategy, ranks):
    """101 evaluation rows, which no rank count divides: each is predicted once and in order, every figure is
    scikit-learn's of those predictions to the last digit, and in fp32 losses agree within 1e-4 relative with one
    rank's."""
    ran, reference = job(ranks, *words(strategy, ranks)), job(1, *words("ddp", 1))
    assert 0 == ran.code, ran.out + ran.err

    final, rows = ran.metrics["final"], ran.predictions
    assert (ranks, strategy) == (ran.metrics["world_size"], ran.metrics["strategy"])
    assert 101 == final["eval_samples"]
    assert list(range(101)) == [row["index"] for row in rows]
    assert recomputed(rows) == {name: final[name] for name in recomputed(rows)}
    assert 20 == len(ran.losses)
    assert pytest.approx(reference.losses, rel=1e-4) == ran.losses
    assert pytest.approx(reference.metrics["final"]["eval_loss"], rel=1e-4) == final["eval_loss"]
    assert pytest.approx(sum(ran.losses) / 20, rel=1e-6) == ran.metrics["epochs"][0]["train_loss"]
    assert 0.8 < final["accuracy"]


def test_a_page_is_drawn_only_where_it_is_wanted(job):
    """`report: false` leaves no report.html, and `ascend-launch` does not name one."""
    ran = job(1, *words("ddp", 1))

    assert not (ran.dir / "report.html").exists()
    assert "report.html" not in ran.out + ran.err


def recomputed(rows):
    true, found = [r["label"] for r in rows], [r["prediction"] for r in rows]
    macro = {"labels": range(5), "average": "macro", "zero_division": 0}
    return {
        "accuracy": sklearn.metrics.accuracy_score(true, found),
        "precision": sklearn.metrics.precision_score(true, found, **macro),
        "recall": sklearn.metrics.recall_score(true, found, **macro),
        "f1": sklearn.metrics.f1_score(true, found, **macro),
        "mae": sklearn.metrics.mean_absolute_error(true, found),
        "confusion_matrix": sklearn.metrics.confusion_matrix(true, found, labels=range(5)).tolist(),
    }


@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_no_rank_holds_a_sharded_model_whole(job, strategy):
    """ZeRO-3 and FSDP2 on two ranks leave each with about half of the parameters before the first step."""
    (engine,) = job(2, *words(strategy, 2)).events("engine")

    assert 0.45 * engine["parameters"] < engine["local_parameters"] < 0.6 * engine["parameters"]


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("zero2", marks=pytest.mark.slow), "zero3", "fsdp2"])
def test_the_saved_model_makes_the_same_predictions(job, strategy):
    """model/ is a Hugging Face folder: read by transformers alone it predicts what predictions.jsonl says, and knows
    its label names and pad token."""
    ran = job(2, *words(strategy, 2))
    model = AutoModelForSequenceClassification.from_pretrained(ran.dir / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(ran.dir / "model")

    texts = [row["text"] for row in _test_rows()]
    with torch.no_grad():
        found = [model(**tokenizer(text, return_tensors="pt")).logits.argmax(-1).item() for text in texts]

    assert [row["prediction"] for row in ran.predictions] == found
    assert ["terrible", "poor", "average", "good", "excellent"] == list(model.config.id2label.values())
    assert tokenizer.pad_token_id == model.config.pad_token_id == 1
    assert not list((ran.dir / "model").glob("*.bin"))


def _test_rows():
    import json

    from .conftest import REPO

    return [json.loads(line) for line in (REPO / "recipes/tiny/test.jsonl").read_text().splitlines()]


def test_all_strategies_end_with_the_same_weights(job):
    """In fp32 the weights that DDP, ZeRO and FSDP2 save differ by rounding alone."""
    reference = load_file(job(1, *words("ddp", 1)).dir / "model" / "model.safetensors")

    for strategy in (*SHARDED, "fsdp2"):
        weights = load_file(job(2, *words(strategy, 2)).dir / "model" / "model.safetensors")
        assert reference.keys() == weights.keys()
        for name, value in reference.items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=2e-3, msg=f"{strategy} {name}")


@pytest.mark.slow
def test_bf16_is_really_bf16_and_learns(job):
    """Under ZeRO the engine computes in bf16 and the model is saved in it."""
    ran = job(2, *words("zero2", 2), "parallel.precision=bf16")

    (engine,) = ran.events("engine")
    weights = load_file(ran.dir / "model" / "model.safetensors")
    assert "bf16" == engine["precision"]
    assert {torch.bfloat16} == {value.dtype for value in weights.values()}
    assert 0.8 < ran.metrics["final"]["accuracy"]


def test_the_environment_does_not_change_the_engine(job, tmp_path):
    """ACCELERATE_USE_CPU=1 of another job turns DeepSpeed into DDP without a word; here it changes nothing. And ZeRO on a
    CPU needs no compiler."""
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION"):
        assert name not in os.environ
    from .conftest import _run

    ran = _run(
        2,
        words("zero2", 2),
        "recipes/tiny-cpu.yaml",
        job(2, *words("zero2", 2)).dir.with_name("other"),
        {
            "ACCELERATE_USE_CPU": "1",
            "ACCELERATE_MIXED_PRECISION": "bf16",
            "CXX": "false",
            "ASCEND_LAUNCH_CACHE": str(tmp_path),
        },
    )

    assert 0 == ran.code, ran.out + ran.err
    (engine,) = ran.events("engine")
    assert ("DeepSpeedEngine", 2, "fp32") == (engine["engine"], engine["zero_stage"], engine["precision"])


@pytest.mark.slow
def test_ranks_that_see_the_same_rows_count_once(ascend_launch, job, tmp_path):
    """Under a strategy of another package whose pairs of ranks share their rows, four ranks train as two do: the same
    losses, and every row evaluated once."""
    folder = REPO / "tests" / "packages" / "pairs"
    ran = ascend_launch(
        "--nproc",
        "4",
        "--device",
        "cpu",
        "--run-dir",
        tmp_path / "run",
        "recipes/tiny-cpu.yaml",
        *words("ddp", 2),
        "parallel.strategy=pairs",
        PYTHONPATH=f"{REPO}:{folder}",
        OMP_NUM_THREADS="1",
    )
    assert 0 == ran.code, ran.out + ran.err
    made, reference = Job(ran.code, ran.out, ran.err, tmp_path / "run"), job(2, *words("ddp", 2))

    assert ("pairs", 4) == (made.metrics["strategy"], made.metrics["world_size"])
    assert list(range(101)) == [row["index"] for row in made.predictions]
    assert pytest.approx(reference.losses, rel=1e-4) == made.losses
    assert reference.metrics["final"]["accuracy"] == made.metrics["final"]["accuracy"]
    assert sum(e["rows"] for e in reference.events("rates")) == sum(e["rows"] for e in made.events("rates"))
