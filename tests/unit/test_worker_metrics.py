"""Figures are scikit-learn's own, over every row once."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.worker.tasks.base import labels_of
from launcher.worker.tasks.metrics import compute
from launcher.worker.tasks.predictions import NO_LABEL, Part, Predictions

DOCS = Path(__file__).parents[2] / "docs" / "results.md"
RANDOM = random.Random(5)
ROWS = [(i, RANDOM.randrange(4), RANDOM.randrange(5), RANDOM.random()) for i in range(101)]
"""(index, label, prediction, loss); no row has label 4, which num_labels 5 allows."""


def of(rows):
    numbers = np.array([(index, 1, label, found) for index, label, found, _ in rows])
    columns = {"label": numbers[:, 2], "prediction": numbers[:, 3]}
    part = Part(numbers[:, 0], columns, np.array([r[3] for r in rows]), numbers[:, 1])
    return Predictions.from_parts([part], num_rows=101)


def test_figures_are_scikit_learns_to_the_last_digit():
    """Accuracy, macro precision, recall and F1, mean absolute error and confusion matrix over 5 labels."""
    names = ("accuracy", "precision", "recall", "f1", "mae", "confusion_matrix")
    true, found = [r[1] for r in ROWS], [r[2] for r in ROWS]
    macro = {"labels": range(5), "average": "macro", "zero_division": 0}

    figures = compute(names, of(ROWS), num_labels=5)

    assert {
        "accuracy": sklearn.metrics.accuracy_score(true, found),
        "precision": sklearn.metrics.precision_score(true, found, **macro),
        "recall": sklearn.metrics.recall_score(true, found, **macro),
        "f1": sklearn.metrics.f1_score(true, found, **macro),
        "mae": sklearn.metrics.mean_absolute_error(true, found),
        "confusion_matrix": sklearn.metrics.confusion_matrix(true, found, labels=range(5)).tolist(),
    } == figures
    assert all(isinstance(v, float | list) for v in figures.values())


ABSENT = [(i, i % 2, (i // 3) % 3, 0.5) for i in range(101)]
"""Label 2 is predicted and never occurs; 3 and 4 do neither."""


@pytest.mark.parametrize("rows", [ROWS, ABSENT, [(i, 0, 0, 0.0) for i in range(101)]], ids=["all", "some", "one"])
def test_the_documented_call_gives_the_same_digits(rows, tmp_path, monkeypatch):
    """The code in docs/results.md, over predictions.jsonl, with labels that are absent too."""
    monkeypatch.chdir(tmp_path)
    Path("predictions.jsonl").write_text("".join(of(rows).lines()))
    code = DOCS.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    found: dict = {}
    exec(code, found)

    assert found["figures"] == compute(tuple(found["figures"]), of(rows), num_labels=5)


def test_labels_that_neither_occur_nor_are_predicted_do_not_count():
    """All right is 1.0, whatever labels the recipe has besides; metrics.json says which counted."""
    right = of([(i, 0, 0, 0.0) for i in range(101)])

    assert {"f1": 1.0, "recall": 1.0} == compute(("f1", "recall"), right, num_labels=5)
    assert {"macro_average": {"labels": [0], "num_labels": 5}} == right.macro_facts(num_labels=5)
    assert [0, 1, 2] == of(ABSENT).macro_facts(num_labels=5)["macro_average"]["labels"]


def test_rows_from_ranks_come_into_dataset_order():
    """However rows arrive, predictions.jsonl has a line a row in dataset order, and the loss is their mean."""
    shuffled = random.Random(1).sample(ROWS, len(ROWS))

    predictions = of(shuffled)
    lines = [json.loads(line) for line in predictions.lines()]

    assert [{"index": i, "label": label, "prediction": found} for i, label, found, _ in ROWS] == lines
    assert pytest.approx(sum(r[3] for r in ROWS) / 101, abs=1e-15) == predictions.loss


@pytest.mark.parametrize("rows", [ROWS[:-1], [*ROWS, ROWS[3]], [*ROWS[:-1], ROWS[3]]])
def test_a_row_missing_or_counted_twice_is_an_error(rows):
    """A gather that loses or repeats a row cannot become a figure."""
    with pytest.raises(ValueError, match="not 0 to 100 once each"):
        of(rows)


def test_rows_without_scores_are_counted_and_named_and_spoil_every_figure():
    """A mean over the other rows would be another evaluation's; a loss that is no number counts as no scores."""
    rows = [list(row) for row in ROWS]
    rows[3][2], rows[40][3] = NO_LABEL, math.inf

    predictions = of(rows)

    assert [3, 40] == predictions.unscored
    assert {"unscored": {"count": 2, "first_rows": [3, 40]}} == predictions.unscored_facts()
    assert all(map(math.isnan, compute(("accuracy", "mae"), predictions, num_labels=5).values()))
    assert {"index": 3, "label": rows[3][1], "prediction": None} == json.loads(list(predictions.lines())[3])
    with pytest.raises(
        LaunchError, match=r"^2 of 101 rows have scores that are NaN or infinite.*rows 3, 40 of"
    ) as caught:
        predictions.require_scores(Path("metrics.json"))
    assert EXIT_JOB_FAILED == caught.value.exit_code


def test_many_rows_without_scores_are_not_all_named():
    predictions = of([(i, label, NO_LABEL, math.nan) for i, label, _, _ in ROWS])

    assert {"count": 101, "first_rows": list(range(10))} == predictions.unscored_facts()["unscored"]
    assert "rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … of" in predictions.unscored_text()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_no_number_gives_no_label(bad: float, place: int):
    """Wherever among the scores it stands; the rows beside it keep theirs."""
    scores = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    scores[1, place] = bad

    assert [1, NO_LABEL] == labels_of(scores).tolist()


def part(indices, columns, losses):
    return Part(np.array(indices), columns, np.array(losses), np.ones(len(indices), np.int64))


def test_columns_of_any_kind_come_into_dataset_order():
    """Vectors, fractions and JSON values of two ranks; a fraction keeps its bits, and what is no number is null. A rank that had
    no row gives none."""
    third = float(np.float32(1 / 3))
    one = part([2, 0], {"prediction": np.array([[third, 1.0], [2.0, math.nan]]), "text": ["c", None]}, [0.5, 0.25])
    other = part([1], {"prediction": np.array([[3.0, 4.0]]), "text": [{"b": [1]}]}, [math.inf])

    predictions = Predictions.from_parts([one, other], num_rows=3)
    rows = [json.loads(line) for line in predictions.lines()]

    assert [None, [3.0, 4.0], [third, 1.0]] == [row["prediction"] for row in rows]
    assert [None, {"b": [1]}, "c"] == [row["text"] for row in rows]
    assert [0.25, None, 0.5] == [row["loss"] for row in rows]
    assert [0, 1] == predictions.unscored


def test_a_row_of_several_labels_without_scores_is_null():
    """Whether its labels are a vector of 0 and 1, or a list of as many as it has words."""
    vectors = Predictions({"prediction": np.array([[1, 0], [NO_LABEL, NO_LABEL]])}, np.zeros(2), np.ones(2))
    lists = Predictions({"label": [[1], [2, 0]], "prediction": [[1], [NO_LABEL, 0]]}, np.zeros(2), np.ones(2))

    for predictions, first in ((vectors, [1, 0]), (lists, [1])):
        assert [1] == predictions.unscored
        assert [first, None] == [json.loads(line)["prediction"] for line in predictions.lines()]
        assert {} == predictions.macro_facts(num_labels=3)
