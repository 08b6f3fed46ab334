"""Pairs of texts, any number of labels, and values: from a CSV file to predictions, over ranks and strategies."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import sklearn.metrics
from transformers import pipeline

from .conftest import Job

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

RANDOM = random.Random(7)
WORDS = (
    "good",
    "great",
    "bad",
    "awful",
    "food",
    "room",
    "staff",
    "price",
    "view",
    "noise",
    "bed",
    "bar",
    "clean",
    "slow",
)
TOPICS = ("food", "room", "staff")
WORTH = {"good": 1.0, "great": 2.0, "bad": -1.0, "awful": -2.0}
NUM_EVALUATED = 61
KINDS: dict[str, tuple[str, ...]] = {
    "pairs": (
        "data.text_pair=second",
        "data.label=kind",
        "model.label_names=[other, same]",
        "metrics=[accuracy, f1, roc_auc, mcc]",
        "predictions=[text, names, probabilities, loss]",
    ),
    "values": (
        "model.problem_type=regression",
        "data.labels=[worth, length]",
        "model.label_names=null",
        "metrics=[mse, mae, r2, spearman]",
    ),
    "labels": (
        "data.label=topics",
        'data.label_separator=";"',
        "model.label_names=null",
        "model.threshold=0.4",
        "metrics=[accuracy, f1, f1_micro, hamming_loss]",
    ),
}
OVER = {"pairs": (3, "zero2"), "values": (2, "zero3"), "labels": (2, "fsdp2")}
Rows = list[dict[str, Any]]


def text(count: int) -> str:
    return " ".join(RANDOM.choice(WORDS) for _ in range(count))


def row(number: int) -> dict[str, Any]:
    words = text(RANDOM.randint(4, 10))
    is_same = RANDOM.random() < 0.5
    return {
        "id": f"r{number}",
        "text": words,
        "second": words if is_same else text(6),
        "kind": "same" if is_same else "other",
        "worth": round(sum(WORTH.get(word, 0) for word in words.split()) * 0.3, 2),
        "length": len(words.split()) / 10,
        "topics": ";".join(topic for topic in TOPICS if topic in words.split()),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("csv")
    for name, count in (("train", 240), ("test", NUM_EVALUATED)):
        rows = [row(number) for number in range(count)]
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return {name: folder / f"{name}.csv" for name in ("train", "test")}


def words(kind: str, data: dict[str, Path], strategy: str) -> tuple[str, ...]:
    files = [f"data.data_files.{name}={path}" for name, path in data.items()]
    ours = ("training.num_train_epochs=1", "training.logging_steps=1", f"parallel.strategy={strategy}")
    return ("data.path=csv", *files, *ours, "parallel.micro_batch_size=2", *KINDS[kind])


def figures(kind: str, rows: Rows) -> dict[str, float]:
    """scikit-learn's and scipy's, of predictions.jsonl."""
    true, found = [row["label"] for row in rows], [row["prediction"] for row in rows]
    if kind == "values":
        ranks = [
            scipy.stats.spearmanr([a[i] for a in true], [b[i] for b in found]).statistic for i in range(len(true[0]))
        ]
        return {
            "mse": sklearn.metrics.mean_squared_error(true, found),
            "mae": sklearn.metrics.mean_absolute_error(true, found),
            "r2": sklearn.metrics.r2_score(true, found),
            "spearman": sum(ranks) / len(ranks),
        }
    macro = {"average": "macro", "zero_division": 0}
    shared = {
        "accuracy": sklearn.metrics.accuracy_score(true, found),
        "f1": sklearn.metrics.f1_score(true, found, **macro),
    }
    if kind == "labels":
        micro = sklearn.metrics.f1_score(true, found, average="micro", zero_division=0)
        return {**shared, "f1_micro": micro, "hamming_loss": sklearn.metrics.hamming_loss(true, found)}
    scores = [row["probabilities"][1] for row in rows]
    mcc = sklearn.metrics.matthews_corrcoef(true, found)
    return {**shared, "mcc": mcc, "roc_auc": sklearn.metrics.roc_auc_score(true, scores)}


def answered(kind: str, answers: Sequence[dict[str, Any]]) -> list[Any]:
    """The predictions in what predict wrote."""
    if kind == "labels":
        return [[int(label in answer["labels"]) for label in range(len(TOPICS))] for answer in answers]
    return [answer["values"] if kind == "values" else answer["label"] for answer in answers]


def by_transformers(kind: str, folder: Path, rows: Rows) -> list[Any]:
    """The predictions that transformers alone makes with an exported folder."""
    classify = pipeline("text-classification", str(folder), top_k=None, device="cpu")
    given = [{"text": r["text"], **({"text_pair": r["second"]} if kind == "pairs" else {})} for r in rows]
    scores = [{one["label"]: one["score"] for one in classify(one)} for one in given]
    if kind == "pairs":
        return [int(one["same"] > one["other"]) for one in scores]
    if kind == "labels":
        return [[int(one[topic] >= 0.4) for topic in TOPICS] for one in scores]
    return [pytest.approx([one["worth"], one["length"]], rel=1e-4, abs=1e-5) for one in scores]


@pytest.mark.parametrize("kind", KINDS)
def test_from_csv_to_predictions(job, ascend_launch, data: dict[str, Path], tmp_path: Path, kind: str):
    """Over several ranks with sharded state as over one: losses agree, each row is evaluated once and in order, every
    figure is scikit-learn's or scipy's of predictions.jsonl. eval, predict and the exported folder in transformers'
    pipeline predict the same again."""
    ranks, strategy = OVER[kind]
    one, many = job(1, *words(kind, data, "ddp")), job(ranks, *words(kind, data, strategy))
    assert (0, 0) == (one.code, many.code), many.out + many.err
    rows = many.predictions

    assert pytest.approx(one.losses, rel=1e-3) == many.losses
    assert [f"r{number}" for number in range(NUM_EVALUATED)] == [row["id"] for row in rows]
    final = many.metrics["final"]
    assert pytest.approx(figures(kind, rows), rel=1e-12, abs=1e-12) == {key: final[key] for key in figures(kind, rows)}
    assert max(row["loss"] for row in rows) == many.read("worst_rows.json")["rows"][0]["loss"]
    check_again(kind, many, ascend_launch, data, tmp_path)


def check_again(kind: str, ran: Job, ascend_launch: Any, data: dict[str, Path], tmp_path: Path) -> None:
    recipe, predicted = ran.dir / "recipe.yaml", [row["prediction"] for row in ran.predictions]
    evaluated = ("--nproc", "3", "--device", "cpu", "--run-dir", tmp_path / "eval")
    done = ascend_launch("eval", recipe, "--checkpoint", ran.dir, *evaluated, OMP_NUM_THREADS="1")
    assert 0 == done.code, done.err
    again = [json.loads(line)["prediction"] for line in (tmp_path / "eval" / "predictions.jsonl").open()]
    exact = (lambda rows: rows) if kind != "values" else (lambda rows: [pytest.approx(row, rel=1e-5) for row in rows])
    assert exact(predicted) == again

    out = tmp_path / "answers.jsonl"
    asked = ("--nproc", "2", "--device", "cpu", "--input", data["test"], "--output", out)
    done = ascend_launch("predict", "--model", ran.dir, *asked, OMP_NUM_THREADS="1")
    assert 0 == done.code, done.err
    assert exact(predicted) == answered(kind, [json.loads(line) for line in out.open()])

    done = ascend_launch("export", ran.dir, "--out", tmp_path / "out")
    assert 0 == done.code, done.err
    with data["test"].open(encoding="utf-8", newline="") as file:
        assert by_transformers(kind, tmp_path / "out", list(csv.DictReader(file))) == predicted
