"""Words that are labelled: equal figures at any number of ranks, and a folder that transformers uses."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import pipeline

from tests.support.launch import REPO
from tests.support.run import Job, Ran

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

NAMES = ("John", "Mary", "Wei", "Anna")
ENDS = ("Smith", "Wang", "Brown")
PLACES = ("Berlin", "Shenzhen", "New York", "Rome", "San Jose")


def sentence(draw: random.Random) -> Iterator[tuple[str, str]]:
    for kind, text in (
        ("PER", f"{draw.choice(NAMES)} {draw.choice(ENDS)}" if draw.random() < 0.5 else draw.choice(NAMES)),
        ("", draw.choice(("visited", "left", "likes"))),
        ("LOC", draw.choice(PLACES)),
        *([("", "and"), ("LOC", draw.choice(PLACES))] if draw.random() < 0.4 else []),
        ("", "."),
    ):
        for number, word in enumerate(text.split()):
            yield word, f"{'I' if number else 'B'}-{kind}" if kind else "O"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 sentences in CoNLL's format, and 35 to evaluate, which no rank count but 1 and 5 divides; some are cut."""
    folder, draw = tmp_path_factory.mktemp("words"), random.Random(8)
    for name, count in (("train", 150), ("test", 35)):
        rows = ("".join(f"{word}\t{tag}\n" for word, tag in sentence(draw)) for _ in range(count))
        (folder / f"{name}.conll").write_text("\n".join(rows))
    model = folder / "tiny"  # whose head has no dropout, which ranks draw each for itself
    shutil.copytree(REPO / "recipes" / "tiny", model)
    config = json.loads((model / "config.json").read_text()) | {"classifier_dropout": 0.0}
    (model / "config.json").write_text(json.dumps(config))
    written = {
        "model": {"name": str(model), "task": "token-classification", "class_weights": "balanced"},
        "data": {
            "path": "conll",
            "data_files": {name: str(folder / f"{name}.conll") for name in ("train", "test")},
            "max_length": 24,
        },
        "training": {"num_train_epochs": 2, "learning_rate": 3e-3, "logging_steps": 1, "save_strategy": "no"},
        "parallel": {"precision": "fp32", "global_batch_size": 12},
    }
    path = folder / "words.yaml"
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    return path


@pytest.mark.parametrize(("strategy", "ranks", "micro"), [("zero3", 3, 4), ("fsdp2", 2, 3), ("ddp", 4, 1)])
def test_figures_do_not_depend_on_ranks_or_strategy(
    job: Callable[..., Job], recipe: Path, strategy: str, ranks: int, micro: int
):
    """A step's loss is of its words, by their weights; each row is evaluated once, and figures are seqeval's of predictions.jsonl."""
    one = job(1, "parallel.micro_batch_size=4", recipe=recipe)
    ran = job(ranks, f"parallel.strategy={strategy}", f"parallel.micro_batch_size={micro}", recipe=recipe)
    assert 0 == ran.code, ran.out + ran.err

    final, rows = ran.metrics["final"], ran.predictions
    assert pytest.approx(one.losses, rel=1e-4) == ran.losses
    assert pytest.approx(one.metrics["final"]["eval_loss"], rel=1e-3) == final["eval_loss"]
    assert list(range(35)) == [row["index"] for row in rows]
    names = ran.read("data.json")["label_names"]
    true, found = ([[names[tag] for tag in row[key]] for row in rows] for key in ("label", "prediction"))
    for figure, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert pytest.approx(score(true, found)) == final[f"entity_{figure}"]
    assert 0.8 < final["entity_f1"]
    assert [len(row) for row in true] == [row["count"] for row in rows]
    assert "words lie behind data.max_length, and are neither trained nor scored" in ran.notes


def test_the_folder_is_transformers_own(
    job: Callable[..., Job], recipe: Path, ascend_launch: Callable[..., Ran], tmp_path: Path
):
    """Its pipeline reads the exported folder, and finds the tags that `predict` writes, of lists of words and of a text."""
    ran = job(1, "parallel.micro_batch_size=4", recipe=recipe)
    out, rows = tmp_path / "export", tmp_path / "rows.jsonl"
    rows.write_text(
        json.dumps({"tokens": ["Mary", "left", "Rome", "."]}) + "\n" + '{"tokens": "Wei likes New York."}\n'
    )
    exported = ascend_launch("export", ran.dir, "--out", out)
    predicted = ascend_launch("predict", "--model", out, "--device", "cpu", "--input", rows)
    assert (0, 0) == (exported.code, predicted.code), exported.err + predicted.err

    of_list, of_text = map(json.loads, predicted.out.splitlines())
    pipe = pipeline("token-classification", str(out))
    for text, answer in (("Mary left Rome .", of_list), ("Wei likes New York.", of_text)):
        tokens, at = pipe(text, ignore_labels=[]), 0
        for word, tag in zip(answer["tokens"], answer["tags"], strict=True):
            at = text.index(word, at)
            assert tag == next(token["entity"] for token in tokens if token["start"] <= at < token["end"])
    assert [text["text"] for text in of_list["entities"]] == ["Mary", "Rome"]
    assert [("Wei", 0, 3), ("New York", 10, 18)] == [(e["text"], e["start"], e["end"]) for e in of_text["entities"]]
