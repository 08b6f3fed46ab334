"""Every kind of metric is its library's own, recomputed from the text of predictions.jsonl; and what it says where rows do
not define it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from launcher.errors import LaunchError
from launcher.recipe import load, metrics
from launcher.recipe.tasks.table import TARGETS
from launcher.worker.metrics import words
from launcher.worker.tasks.metrics import Remarks, compute
from launcher.worker.tasks.predictions import Predictions

Write = Callable[..., Path]
RANDOM = np.random.default_rng(7)
NUM_ROWS = 57


def predictions(**columns: Any) -> Predictions:
    """Rows with these columns."""
    count = len(next(iter(columns.values())))
    return Predictions(columns, RANDOM.random(count), np.ones(count, np.int64))


def read(rows: Predictions) -> dict[str, list[Any]]:
    """The columns of predictions.jsonl, from its text alone."""
    lines = [json.loads(line) for line in rows.lines()]
    return {name: [line[name] for line in lines] for name in lines[0]}


def computed(names: tuple[str, ...], rows: Predictions, **keywords: Any) -> dict[str, Any]:
    return compute(names, rows, **{"num_labels": 0, **keywords})


def shares(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)


@pytest.mark.slow
def test_one_label_is_scikit_learns():
    label = RANDOM.integers(0, 4, NUM_ROWS)
    probabilities = shares(RANDOM.normal(size=(NUM_ROWS, 4)))
    rows = predictions(label=label, prediction=probabilities.argmax(-1), probabilities=probabilities)
    file = read(rows)
    true, predicted, chances = file["label"], file["prediction"], np.array(file["probabilities"])
    sk = sklearn.metrics
    weighted = {"average": "weighted", "zero_division": 0}
    expected = {
        "precision_weighted": sk.precision_score(true, predicted, **weighted),
        "recall_weighted": sk.recall_score(true, predicted, **weighted),
        "f1_weighted": sk.f1_score(true, predicted, **weighted),
        "f1_micro": sk.f1_score(true, predicted, average="micro"),
        "balanced_accuracy": sk.balanced_accuracy_score(true, predicted),
        "mcc": sk.matthews_corrcoef(true, predicted),
        "cohen_kappa": sk.cohen_kappa_score(true, predicted),
        "hamming_loss": sk.hamming_loss(true, predicted),
        "roc_auc": sk.roc_auc_score(true, chances, multi_class="ovr", average="macro"),
        "average_precision": sk.average_precision_score(np.eye(4)[true], chances),
        "spearman": scipy.stats.spearmanr(true, predicted).statistic,
    }

    assert expected == computed(tuple(expected), rows, num_labels=4)


def test_two_labels_are_ranked_by_the_second():
    label = RANDOM.integers(0, 2, NUM_ROWS)
    probabilities = shares(RANDOM.normal(size=(NUM_ROWS, 2)))
    rows = predictions(label=label, prediction=probabilities.argmax(-1), probabilities=probabilities)
    file = read(rows)
    second = [row[1] for row in file["probabilities"]]
    expected = {
        "roc_auc": sklearn.metrics.roc_auc_score(file["label"], second),
        "average_precision": sklearn.metrics.average_precision_score(file["label"], second),
    }

    assert expected == computed(tuple(expected), rows, num_labels=2)


def test_many_labels_are_scikit_learns():
    """Accuracy is of rows whose labels are all right."""
    probabilities = RANDOM.random((NUM_ROWS, 3))
    label = (RANDOM.random((NUM_ROWS, 3)) < 0.4).astype(np.int64)
    label[:9] = probabilities[:9] >= 0.5
    rows = predictions(label=label, prediction=(probabilities >= 0.5).astype(np.int64), probabilities=probabilities)
    file = {name: np.array(column) for name, column in read(rows).items()}
    true, predicted, chances = file["label"], file["prediction"], file["probabilities"]
    sk = sklearn.metrics
    expected = {
        "accuracy": sk.accuracy_score(true, predicted),
        "precision": sk.precision_score(true, predicted, average="macro", zero_division=0),
        "recall": sk.recall_score(true, predicted, average="macro", zero_division=0),
        "f1": sk.f1_score(true, predicted, average="macro", zero_division=0),
        "f1_weighted": sk.f1_score(true, predicted, average="weighted", zero_division=0),
        "f1_micro": sk.f1_score(true, predicted, average="micro", zero_division=0),
        "hamming_loss": sk.hamming_loss(true, predicted),
        "roc_auc": sk.roc_auc_score(true, chances, average="macro"),
        "average_precision": sk.average_precision_score(true, chances, average="macro"),
    }

    assert expected == computed(tuple(expected), rows, num_labels=3)


@pytest.mark.parametrize("width", [None, 3])
def test_values_are_scikit_learns_and_scipys(width: int | None):
    """fp32 predictions, one and several a row."""
    shape = (NUM_ROWS,) if width is None else (NUM_ROWS, width)
    label = RANDOM.normal(size=shape)
    prediction = (label + RANDOM.normal(size=shape)).astype(np.float32).astype(np.float64)
    rows = predictions(label=label, prediction=prediction)
    file = read(rows)
    true, predicted = np.array(file["label"]), np.array(file["prediction"])
    sk = sklearn.metrics

    def mean(score: Callable[..., Any]) -> float:
        pairs = [(true, predicted)] if width is None else zip(true.T, predicted.T, strict=True)
        return float(np.mean([score(*pair).statistic for pair in pairs]))

    expected = {
        "mae": sk.mean_absolute_error(true, predicted),
        "mse": sk.mean_squared_error(true, predicted),
        "rmse": sk.root_mean_squared_error(true, predicted),
        "r2": sk.r2_score(true, predicted),
        "pearson": mean(scipy.stats.pearsonr),
        "spearman": mean(scipy.stats.spearmanr),
    }

    assert expected == computed(tuple(expected), rows)


TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.mark.slow
def test_entities_are_seqevals():
    """And accuracy is of words."""
    seqeval = pytest.importorskip("seqeval.metrics")
    draw = random.Random(3)
    label = [[draw.randrange(5) for _ in range(draw.randrange(1, 9))] for _ in range(NUM_ROWS)]
    prediction = [[tag if draw.random() < 0.8 else draw.randrange(5) for tag in row] for row in label]
    rows = predictions(label=label, prediction=prediction)
    file = read(rows)
    true, predicted = ([[TAGS[tag] for tag in row] for row in file[name]] for name in ("label", "prediction"))
    expected = {
        "entity_f1": seqeval.f1_score(true, predicted),
        "entity_precision": seqeval.precision_score(true, predicted),
        "entity_recall": seqeval.recall_score(true, predicted),
        "accuracy": seqeval.accuracy_score(true, predicted),
    }

    assert expected == computed(tuple(expected), rows, num_labels=5, label_names=TAGS)
    assert 0 < expected["entity_f1"] < 1


ENGLISH = [
    ("The cat sat on the mat.", "A cat sat on a mat."),
    ("no", "yes"),
    ("Yes!", "yes"),
    ("", "something"),
    ("something", ""),
    ("", ""),
    ("the quick brown fox jumps", "The quick brown dog jumps over"),
    ("  padded ", "padded"),
]
CHINESE = [
    ("今天天气很好", "今天的天气非常好"),
    ("我爱北京天安门", "我爱北京天安门"),
    ("", "没有"),
    ("模型输出 GPU 数量", "模型的输出是 GPU 数量。"),
]


def written(pairs: list[tuple[str, str]]) -> Predictions:
    """Rows with texts, and one between them that nothing was generated for."""
    pairs = [*pairs[:2], (None, None), *pairs[2:]]  # type: ignore[list-item]
    return predictions(text=[pair[0] for pair in pairs], reference=[pair[1] for pair in pairs])


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [ENGLISH, CHINESE, [*ENGLISH, *CHINESE]], ids=["en", "zh", "both"])
def test_texts_are_sacrebleus_and_rouge_scores(pairs: list[tuple[str, str]]):
    """Chinese words are jieba's for ROUGE, and characters for BLEU."""
    sacrebleu = pytest.importorskip("sacrebleu")
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    jieba = pytest.importorskip("jieba")
    rows = written(pairs)
    file = read(rows)
    kept = [pair for pair in zip(file["text"], file["reference"], strict=True) if pair[0] is not None]
    texts, references = [pair[0] for pair in kept], [pair[1] for pair in kept]

    class Jieba:
        def tokenize(self, text: str) -> list[str]:
            return [word for word in jieba.cut(text.lower()) if word.strip()]

    def rouge(kind: str) -> float:
        has_han = [any("\u4e00" <= letter <= "\u9fff" for letter in text + reference) for text, reference in kept]
        by = {one: scorer.RougeScorer([kind], tokenizer=Jieba() if one else None) for one in (False, True)}
        scores = [
            by[one].score(reference, text)[kind].fmeasure for one, (text, reference) in zip(has_han, kept, strict=True)
        ]
        return sum(scores) / len(scores)

    tokenize = "13a" if pairs is ENGLISH else "zh"
    expected = {
        "bleu": sacrebleu.corpus_bleu(texts, [references], tokenize=tokenize).score,
        "chrf": sacrebleu.corpus_chrf(texts, [references]).score,
        "rouge1": rouge("rouge1"),
        "rouge2": rouge("rouge2"),
        "rougeL": rouge("rougeL"),
    }

    assert expected == computed(tuple(expected), rows)
    assert all(value > 0 for value in expected.values())


def test_texts_that_are_the_reference_or_share_words_with_it():
    """As SQuAD counts: case, punctuation and articles do not count for F1; Chinese characters are words."""
    found = computed(("exact_match", "text_f1"), written(ENGLISH))
    by_row = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 2 * 3 / (4 + 5), 1.0]

    assert found["exact_match"] == 2 / 8
    assert found["text_f1"] == pytest.approx(sum(by_row) / 8)
    assert {"text_f1": pytest.approx(2 * 5 / (6 + 8))} == computed(("text_f1",), written(CHINESE[:1]))


def test_a_label_is_what_a_text_names_first():
    """Labels are the references of all rows; the longest that begins at a place, whole words, any case."""
    pairs = [
        ("The answer is: Very good.", "very good"),
        ("good, I think; not bad", "good"),
        ("goodness", "good"),
        ("bad or good", "good"),
        ("", "bad"),
        ("情感是正面的", "正面"),
    ]
    assert {"label_accuracy": 3 / 6} == computed(("label_accuracy",), written(pairs))


@pytest.mark.parametrize(
    ("names", "rows", "keywords", "reason"),
    [
        (
            ("roc_auc", "average_precision"),
            {"label": [0, 0], "probabilities": [[0.5, 0.5]] * 2},
            2,
            "label 1 has no row",
        ),
        (("roc_auc",), {"label": [0, 1], "probabilities": [[0.2, 0.3, 0.5]] * 2}, 3, "label 2 has no row"),
        (("roc_auc",), {"label": [[0, 1], [1, 1]], "probabilities": [[0.5, 0.5]] * 2}, 2, "every row has label 1"),
        (("pearson", "spearman"), {"label": [1.0, 2.0], "prediction": [3.0, 3.0]}, 1, "all predictions are the same"),
        (("pearson", "r2"), {"label": [1.0, 1.0], "prediction": [3.0, 4.0]}, 1, "all values are the same"),
        pytest.param(
            ("cohen_kappa",),
            {"label": [1, 1], "prediction": [1, 1]},
            2,
            "only one label occurs and is predicted",
            marks=pytest.mark.slow,  # imports evaluate
        ),
        (("bleu", "rougeL", "exact_match"), {"text": [None], "reference": [None]}, 0, "there are none"),
    ],
)
def test_a_figure_that_the_rows_do_not_define_is_nan_and_said(
    names: tuple[str, ...], rows: dict[str, Any], keywords: int, reason: str
):
    columns = {name: value if value[0] is None else np.array(value) for name, value in rows.items()}
    remarks = Remarks()

    figures = compute(names, predictions(**columns), num_labels=keywords, remarks=remarks)

    assert all(map(math.isnan, figures.values())) and set(names) == figures.keys()
    notes = [str(note) for note in remarks.notes]
    assert len(names) == len(notes) and not remarks.failures
    assert all(
        note.startswith(f"{name} is not defined for these rows: ") for name, note in zip(names, notes, strict=True)
    )
    assert reason in notes[0]


def test_texts_that_were_not_generated_leave_their_figures_out():
    """Not every evaluation generates."""
    rows = Predictions({"correct": np.array([1])}, np.array([0.5]), np.array([2]))

    assert {"token_accuracy": 0.5} == computed(("token_accuracy", "bleu", "exact_match"), rows)


@pytest.mark.slow
def test_words_of_chinese_are_found_without_a_shared_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """jieba's own start reads, and leaves, a file of the folder for temporary files."""
    pytest.importorskip("jieba")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    words._jieba.cache_clear()

    assert ["我", "爱", "北京", "天安门"] == words.segmented("我 爱北京天安门")
    assert [] == list(tmp_path.iterdir())


ONE = {"model": {"num_labels": 3}}
CHAT = {"model": {"task": "sft", "num_labels": None}}


@pytest.mark.parametrize(
    ("sections", "name", "message"),
    [
        (ONE, "r2", r"r2 is not for rows that have one label each; accuracy, .*mcc.* and \w+ are"),
        (ONE, "entity_f1", r"entity_f1 is not for rows that have one label each; "),
        (
            CHAT,
            "f1",
            r"f1 is not for rows whose tokens are learnt; perplexity, token_accuracy, exact_match, .* chrf and label_accuracy are",
        ),
        (CHAT, "rougeL", r"rougeL compares texts that the model writes; add `generation:`"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_with_those_that_do(
    recipe: Write, sections: Any, name: str, message: str
):
    with pytest.raises(LaunchError, match=f"yaml:[0-9]+: metrics: {message}"):
        load.load(recipe(**sections, metrics=[name]), (), {})


@pytest.mark.parametrize("name", metrics.BUILT_IN)
def test_every_metric_says_what_it_is_of(name: str):
    """Targets of the table, keywords that `compute` has, and packages that doctor knows."""
    from launcher.diagnose.doctor.versions import BOUNDS

    metric = metrics.load(name)
    assert metric.targets and metric.targets <= TARGETS.keys()
    assert set(metric.keywords) <= {"num_labels", "label_names"} and set(metric.needs) <= BOUNDS.keys()
