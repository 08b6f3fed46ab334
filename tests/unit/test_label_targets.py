"""What a row's label is made of: one label, any number of labels, or values; from one column or several."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from launcher.data.formats.base import RowError
from launcher.data.targets import Targets
from launcher.errors import LaunchError
from launcher.jobs import labels
from launcher.recipe import load
from launcher.recipe.load import Loaded
from launcher.recipe.tasks.table import MANY_LABELS, MULTI_LABEL, ONE_LABEL, REGRESSION, TAGS, VALUES

LABELS = Targets(MANY_LABELS, {"data.label": "label"})
CELLS = Targets(MANY_LABELS, {"data.label": "label"}, ";")
FLAGS = Targets(MANY_LABELS, {"data.labels.0": "food", "data.labels.1": "staff"})
NUMBER = Targets(VALUES, {"data.label": "label"})
NUMBERS = Targets(VALUES, {"data.labels.0": "food", "data.labels.1": "staff"})
WORDS = Targets(TAGS, {"data.label": "tags"})


@pytest.mark.parametrize(
    ("targets", "cells", "row"),
    [
        (LABELS, {"label": ["a", "b"]}, ["a", "b"]),
        (LABELS, {"label": [3, 4.0]}, [3, 4]),
        (LABELS, {"label": []}, []),
        (CELLS, {"label": "a; b;"}, ["a", "b"]),
        (CELLS, {"label": ""}, []),
        (CELLS, {"label": None}, []),
        (CELLS, {"label": math.nan}, []),
        (CELLS, {"label": 7}, [7]),
        (FLAGS, {"food": 1, "staff": 0}, [0]),
        (FLAGS, {"food": "1.0", "staff": "TRUE"}, [0, 1]),
        (FLAGS, {"food": False, "staff": 0.0}, []),
        (NUMBER, {"label": "-2.5"}, [-2.5]),
        (NUMBER, {"label": [1, 2.5]}, [1.0, 2.5]),
        (NUMBERS, {"food": "1e-3", "staff": 4}, [0.001, 4.0]),
        (Targets(VALUES, {"data.label": "label"}, " "), {"label": "1 2.5"}, [1.0, 2.5]),
    ],
)
def test_cells_become_labels_and_numbers(targets: Targets, cells: dict[str, Any], row: list[Any]):
    """Of flags the numbers of the columns that a row has; what CSV readers make of an empty cell is no label where cells are
    parted."""
    assert row == targets.of_row(cells)


@pytest.mark.parametrize(
    ("targets", "cells", "said"),
    [
        (LABELS, {"label": "a"}, "'label' is text and not a list of labels"),
        (LABELS, {"label": None}, "'label' is empty"),
        (LABELS, {"label": [["a"]]}, r"'label' has \['a'\] among its labels"),
        (LABELS, {"label": [True]}, "'label' has True among its labels"),
        (LABELS, {"label": [2.5]}, "'label' has 2.5 among its labels"),
        (FLAGS, {"food": 2, "staff": 0}, "'food' is 2, and 0 or 1 is expected"),
        (FLAGS, {"food": 1, "staff": " "}, "'staff' is empty"),
        (NUMBER, {"label": "good"}, "'label' is 'good', and a number is expected"),
        (NUMBER, {"label": "1,5"}, "'label' is '1,5', and a number is expected"),
        (NUMBER, {"label": True}, "'label' is True, and a number is expected"),
        (NUMBER, {"label": math.inf}, "'label' is inf, and a number is expected"),
        (NUMBER, {"label": math.nan}, "'label' is empty"),
        (NUMBER, {"label": []}, "'label' is a list, and not a number"),
        (NUMBER, {"label": [1, None]}, "'label' is empty"),
        (NUMBERS, {"food": [1, 2], "staff": 3}, "'food' is a list, and not a number"),
        (WORDS, {"tags": []}, "'tags' is empty"),
        (WORDS, {"tags": " "}, "'tags' is empty"),
        (WORDS, {"tags": None}, "'tags' is empty"),
        (WORDS, {"tags": 3}, "'tags' is a number, and a list with a tag for each word is expected"),
    ],
)
def test_cells_that_are_none_are_refused(targets: Targets, cells: dict[str, Any], said: str):
    with pytest.raises(RowError, match=said):
        targets.of_row(cells)


MODEL = {"name": "shipped:tiny"}


def loaded(tmp_path: Path, model: dict[str, Any], data: dict[str, Any], **more: Any) -> Loaded:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"model": {**MODEL, **model}, "data": data, **more}))
    return load.load(path)


def rows(tmp_path: Path, *labels: Any) -> dict[str, Any]:
    """`data:` of a file with these labels, all of it trained on and evaluated."""
    lines = [json.dumps({"text": "a text", "label": label}) for label in labels]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return {"path": str(tmp_path / "rows.jsonl"), "eval": None}


@pytest.mark.parametrize("text", ["", "text,label\n"])
def test_a_file_without_rows_is_said_to_have_none(tmp_path: Path, text: str):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(LaunchError, match=r"rows.csv: has no rows"):
        labels.named(loaded(tmp_path, {}, {"path": str(tmp_path / "rows.csv"), "eval": None}))


def test_lists_of_labels_make_a_recipe_multi_label(tmp_path: Path):
    """Its names are those in the lists, in their order; both are pinned, for other machines."""
    named = labels.named(loaded(tmp_path, {}, rows(tmp_path, ["b"], [], ["c", "a"])))

    assert (MANY_LABELS, ("a", "b", "c")) == (named.spec.targets, named.spec.model.label_names)
    assert {f"model.problem_type={MULTI_LABEL}", 'model.label_names=["a", "b", "c"]'} <= set(named.pins)
    assert any("a row has any number of labels" in note for note in named.notes)


def test_a_separator_or_several_columns_make_it_so_too(tmp_path: Path):
    """Of several columns the names are the labels', and no file is read."""
    data = rows(tmp_path, "b; a", "", "c")
    parted = labels.named(loaded(tmp_path, {}, {**data, "label_separator": ";"})).spec
    several = labels.named(loaded(tmp_path, {}, {"path": "org/set", "labels": ["food", "staff"]})).spec

    assert (MANY_LABELS, ("a", "b", "c")) == (parted.targets, parted.model.label_names)
    assert (MANY_LABELS, ("food", "staff")) == (several.targets, several.model.label_names)


@pytest.mark.parametrize(
    ("values", "names"), [((1.5, 2), ("label",)), (([1, 2, 3], [4, 5, 6]), ("label_0", "label_1", "label_2"))]
)
def test_a_regression_has_as_many_values_as_its_first_row(tmp_path: Path, values: Any, names: tuple[str, ...]):
    named = labels.named(loaded(tmp_path, {"problem_type": REGRESSION}, rows(tmp_path, *values)))

    assert (VALUES, names) == (named.spec.targets, named.spec.model.label_names)
    assert ("mse", "r2", "spearman") == named.spec.metrics


def test_a_label_a_row_stays_what_it_was(tmp_path: Path):
    named = labels.named(loaded(tmp_path, {}, rows(tmp_path, "b", "a")))

    assert (ONE_LABEL, ("a", "b"), None) == (
        named.spec.targets,
        named.spec.model.label_names,
        named.spec.model.problem_type,
    )
    assert not {"problem_type", "threshold"} & named.spec.model.model_dump().keys()
    assert "predictions" not in named.spec.model_dump()


@pytest.mark.parametrize(
    ("model", "data", "more", "said"),
    [
        ({"threshold": 0.3, "num_labels": 2}, {}, {}, "model.threshold: is for rows that have any number of labels"),
        ({"threshold": 1.0}, {"labels": ["a"]}, {}, "model.threshold: 1.0: must be less than 1"),
        ({"num_labels": 3}, {"labels": ["a", "b"]}, {}, "a, b are 2 columns for num_labels 3"),
        ({}, {"labels": ["a", "a"]}, {}, "data.labels: a column is named twice"),
        ({}, {"labels": "a"}, {}, "data.labels: expected a list of columns, got 'a'"),
        ({}, {"labels": ["a"], "label": "b"}, {}, "data.label: not beside data.labels"),
        ({}, {"labels": ["a"], "label_separator": ";"}, {}, "data.label_separator: not beside data.labels"),
        ({"num_labels": 2}, {"text_pair": 3}, {}, "data.text_pair: expected a text, got 3"),
        (
            {"problem_type": "single_label_classification", "num_labels": 2},
            {"label_separator": ";"},
            {},
            "data.label_separator: a row has one label",
        ),
        ({"problem_type": "ranking"}, {}, {}, "model.problem_type"),
        (
            {"task": "causal-lm", "problem_type": REGRESSION, "num_labels": 2},
            {},
            {},
            "model.problem_type: is for a classification head",
        ),
        ({"task": "sft"}, {}, {"predictions": ["text"]}, "predictions: predictions.jsonl has nothing else of task sft"),
        ({"problem_type": REGRESSION}, {}, {"predictions": ["probabilities"]}, "a regression has no probabilities"),
        ({"num_labels": 2}, {}, {"predictions": ["loss", "loss"]}, "predictions: the same is named twice"),
        ({"num_labels": 2}, {}, {"predictions": ["texts"]}, "predictions"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, model: dict[str, Any], data: dict[str, Any], more: dict[str, Any], said: str
):
    with pytest.raises(LaunchError) as caught:
        loaded(tmp_path, model, {"path": "org/set", **data}, **more)

    assert said in caught.value.what
