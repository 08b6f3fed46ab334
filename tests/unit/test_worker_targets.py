"""What a classification head learns of a row, and what is left of each in an evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from launcher.data.targets import Targets
from launcher.errors import LaunchError
from launcher.recipe.tasks.classification import CLASSIFICATION
from launcher.recipe.tasks.table import MANY_LABELS, VALUES
from launcher.worker.data import label_rows
from launcher.worker.data.label_rows import Cells
from launcher.worker.losses.base import Settings
from launcher.worker.losses.cross_entropy import CrossEntropy
from launcher.worker.losses.mean_squared_error import MeanSquaredError
from launcher.worker.tasks.predictions import NO_LABEL, Part, Predictions, named
from launcher.worker.tasks.targets import ManyLabels, OneLabel, Values

SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])


def cells(kind: str, *rows: Any, separator: str | None = None) -> dict[str, Cells]:
    targets = Targets(kind, {"data.label": "label"}, separator)
    return {"train": Cells({"label": pa.chunked_array([pa.array(rows)])}, targets, lambda row: f"rows.csv:{row + 2}")}


def test_labels_of_rows_are_numbered_by_their_names():
    """Names that are numbers name the data's; other names stand for numbers from 0. Each counts once in a row."""
    for names, rows, found in (
        (("a", "b", "c"), (["c", "a", "a"], []), [[0, 2], []]),
        (("1", "2", "5"), ([5, 1], [2]), [[0, 2], [1]]),
        (("a", "b", "c"), ([2], [0]), [[2], [0]]),
        (("a", "b"), (["1"], ["b"]), [[1], [1]]),
    ):
        assert (names, {"train": found}) == label_rows.numbered(
            cells(MANY_LABELS, *rows), names=names, num_labels=len(names)
        )
    assert (1, 0, 2) == label_rows.counts([[0, 2], [2]], 3)
    assert ["no training row has b: nothing is learned of it"] == label_rows.notes({"train": [[0]]}, ("a", "b"))


@pytest.mark.parametrize(
    ("kind", "rows", "said"),
    [
        (MANY_LABELS, (["a"], ["d"]), "rows.csv:3: column 'label' has the label 'd', which is none of a, b, c"),
        (MANY_LABELS, ([0, 3],), "rows.csv:2: column 'label' has the label 3, which is none of a, b, c"),
        (MANY_LABELS, (["a"], None), "rows.csv:3: 'label' is empty"),
        (VALUES, ([1.0, 2.0, 3.0], [1.0]), "rows.csv:3: has 1 numbers as its 'label', and the model gives 3"),
        (VALUES, ("1.5", "much"), "rows.csv:3: 'label' is 'much', and a number is expected"),
    ],
)
def test_rows_that_have_something_else_are_named_with_their_place(kind: str, rows: tuple[Any, ...], said: str):
    count = 1 if isinstance(rows[0], str) else 3
    with pytest.raises(LaunchError) as caught:
        label_rows.numbered(cells(kind, *rows), names=("a", "b", "c")[:count], num_labels=count)

    assert said in caught.value.what


def test_many_labels_are_learnt_as_torch_does_and_predicted_from_the_threshold_on():
    """The mean over rows of a row's loss is BCEWithLogitsLoss's own; a probability at the threshold counts."""
    targets, loss = ManyLabels(3, 0.5, more=("scores", "probabilities")), CrossEntropy(Settings(has_many_labels=True))
    batch = targets.batch([[0, 2], []])
    expected = torch.nn.BCEWithLogitsLoss()(SCORES, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))

    columns, losses, counts = targets.evaluated(SCORES, batch, loss.of_rows(SCORES, batch["labels"]))

    torch.testing.assert_close(expected, loss(SCORES, batch["labels"]).mean())
    torch.testing.assert_close(expected, losses.mean())
    assert [[1, 0, 1], [0, 0, 0]] == columns["label"].tolist()  # type: ignore[union-attr]
    assert [[1, 0, 1], [1, 1, 0]] == columns["prediction"].tolist()  # type: ignore[union-attr]
    assert [1, 1] == counts.tolist()
    assert torch.float64 == columns["probabilities"].dtype  # type: ignore[union-attr]
    assert SCORES.tolist() == columns["scores"].tolist()  # type: ignore[union-attr]
    strict = ManyLabels(3, 0.9).evaluated(SCORES, batch, losses).columns["prediction"]
    assert [[0, 0, 0], [0, 1, 0]] == strict.tolist()  # type: ignore[union-attr]


def test_values_are_learnt_by_their_squared_distance_and_keep_their_digits():
    """0.1 is no number of fp32, and is written as it was read; what is learnt is its neighbour."""
    values, loss = Values(), MeanSquaredError(Settings())
    batch = values.batch([[0.1], [-2.5]])
    columns, losses, _ = values.evaluated(SCORES[:, :1], batch, loss.of_rows(SCORES[:, :1], batch["labels"]))

    assert [0.1, -2.5] == columns["label"].tolist()  # type: ignore[union-attr]
    assert SCORES[:, 0].tolist() == columns["prediction"].tolist()  # type: ignore[union-attr]
    expected = functional.mse_loss(SCORES[:, :1], torch.tensor([[0.1], [-2.5]]))
    torch.testing.assert_close(expected, losses.mean())
    several = values.batch([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(torch.nn.MSELoss()(SCORES, several["labels"]), loss(SCORES, several["labels"]).mean())
    assert (2, 3) == tuple(values.evaluated(SCORES, several, losses).columns["label"].shape)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("targets", "names", "first", "unanswered"),
    [
        (
            ManyLabels(2, 0.5),
            ("a", "b"),
            {"labels": [0], "label_names": ["a"]},
            {"labels": None, "label_names": None, "probabilities": None},
        ),
        (Values(), ("x", "y"), {"values": [3.0, -3.0]}, {"values": None}),
        (Values(), ("x",), {"value": 3.0}, {"value": None}),
        (
            OneLabel(),
            ("a", "b"),
            {"label": 0, "label_name": "a"},
            {"label": None, "label_name": None, "probabilities": None},
        ),
    ],
)
def test_what_predict_answers(targets: Any, names: tuple[str, ...], first: dict[str, Any], unanswered: dict[str, Any]):
    """Both halves together; null where a score is no number."""
    scores = torch.tensor([[3.0, -3.0], [math.nan, 0.0]])[:, : len(names)]
    rows = [list(row) if isinstance(row, tuple) else row for row in targets.answers(scores)]  # as JSON brings them

    answers = [CLASSIFICATION.answer(row, names) for row in rows]

    assert [True, False] == [CLASSIFICATION.is_answered(row) for row in rows]
    assert first == {key: answers[0][key] for key in first}
    assert unanswered == answers[1]


def predictions() -> Predictions:
    columns = {"label": np.array([0, 1, 1]), "prediction": np.array([1, 1, NO_LABEL]), "scores": np.zeros((3, 2))}
    part = Part(np.arange(3), columns, np.array([2.0, 0.5, math.nan]), np.ones(3, np.int64))
    return Predictions.from_parts([part], num_rows=3)


def test_predictions_have_ids_and_what_is_asked_for():
    """The id first, names, texts and losses after; scores are for metrics alone."""
    found = predictions()
    more = {"id": ["x", None, 7], "text": ["one", "two", "three"], **named(found, ("no", "yes"))}

    rows = list(found.rows(range(3), more, losses=True))

    assert ["index", "id", "label", "prediction", "loss", "text", "label_name", "prediction_name"] == list(rows[0])
    assert [("x", "no", "yes", 2.0), (None, "yes", "yes", 0.5), (7, "yes", None, None)] == [
        (row["id"], row["label_name"], row["prediction_name"], row["loss"]) for row in rows
    ]
    assert ["index", "label", "prediction"] == list(next(found.rows([1], {}, losses=False)))


def test_the_worst_rows_are_those_with_the_largest_mean_losses():
    """A row without a loss before all others; of rows that count more than once the mean is what counts."""
    columns = {"correct": np.array([0, 0, 0])}
    found = Predictions(columns, np.array([6.0, 5.0, math.inf]), np.array([6, 2, 1]))

    assert [2, 1, 0] == [row["index"] for row in found.worst()]
    assert [2, 0, 1] == [row["index"] for row in predictions().worst()]
    assert {"index": 1, "correct": 0, "count": 2, "loss": 5.0} == found.worst()[1]


def test_several_labels_are_named_one_by_one():
    many = Predictions({"label": np.array([[1, 0], [1, 1]])}, np.zeros(2), np.ones(2))
    tags = Predictions({"prediction": [[1], [0, NO_LABEL]]}, np.zeros(2), np.ones(2))
    values = Predictions({"prediction": np.array([0.5])}, np.zeros(1), np.ones(1))

    assert {"label_name": [["a"], ["a", "b"]]} == named(many, ("a", "b"))
    assert {"prediction_name": [["b"], None]} == named(tags, ("a", "b"))
    assert {} == named(values, ("score",))
