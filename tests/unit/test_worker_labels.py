"""Labels are numbered from 0 in one order for every split, or refused with a recipe that would be right."""

from __future__ import annotations

import re
import shlex
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from launcher.errors import LaunchError
from launcher.recipe import yamlfile
from launcher.worker.data import labels
from launcher.worker.data.label_values import Column


def column(values: list[Any], split: str = "train", **options: Any) -> Column:
    return Column(name="label", values=pa.chunked_array([pa.array(values)]), split=split, where=split, **options)


def number(train: list[Any], held: list[Any] | None = None, **options: Any) -> labels.Numbered:
    columns = {"train": column(train)} | ({} if held is None else {"eval": column(held, "test")})
    return labels.number(columns, **{"names": None, "num_labels": 5, **options})


def refused(*values: Any, **options: Any) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        number(*values, **options)
    assert caught.value.hint
    return caught.value


def followed(hint: str) -> dict[str, Any]:
    """What the overrides in a hint say, as `number` takes it."""
    words = [word for word in shlex.split(hint.replace("`", "")) if word.startswith("model.") and "=" in word]
    found = {key.removeprefix("model."): yamlfile.scalar(text) for key, _, text in (w.partition("=") for w in words)}
    out: dict[str, Any] = (
        {"num_labels": int(re.sub(r"\D", "", str(found["num_labels"])))} if "num_labels" in found else {}
    )
    return out | ({"names": tuple(found["label_names"])} if "label_names" in found else {})


@pytest.mark.parametrize(
    ("train", "held", "num_labels", "names"),
    [
        ([1, 2, 3, 4, 5], [5, 1], 5, "12345"),
        ([1, 3, 5], [2, 4], 5, "12345"),  # neither split has all
        ([1, 3, 4, 5], [1], 5, "12345"),  # 2 never occurs
        ([0, 2, 4], [4], 3, "024"),
        (["2", "1"], ["1"], 2, "12"),
        (["good", "bad"], ["good"], 2, ["bad", "good"]),
        ([10, 9], [9], 2, ["9", "10"]),
        (["10", "9"], [], 2, ["9", "10"]),
    ],
)
def test_labels_not_from_0_are_numbered_in_order_and_a_note_says_so(train, held, num_labels, names):
    """Where num_labels leaves one reading; texts of numbers by their numbers."""
    found = number(train, held or None, num_labels=num_labels)

    assert tuple(names) == found.names
    assert [list(map(str, names)).index(str(v)) for v in train] == found.labels["train"].tolist()
    assert [found.names.index(str(v)) for v in held] == found.labels.get("eval", np.zeros(0, int)).tolist()
    assert "numbered in order" in found.notes[0]


@pytest.mark.parametrize("values", [[0, 1, 2], [0.0, 2.0], [True, False], ["0", "4"]])
def test_labels_from_0_stay_what_they_are(values):
    """Whole numbers of any type, and texts of them; labels that do not occur keep their numbers."""
    found = number(values)

    assert [int(v) for v in values] == found.labels["train"].tolist()
    assert (tuple("01234"), ()) == (found.names, found.notes)


def test_names_that_are_numbers_name_the_datas_numbers():
    """label_names of 1 to 5 map 1 to 0, in any order; other names stand for places."""
    assert [0, 4] == number([1, 5], names=tuple("12345")).labels["train"].tolist()
    assert [1, 0] == number([0, 1], names=("1", "0"), num_labels=2).labels["train"].tolist()
    assert [1, 0] == number([1, 0], names=("bad", "good"), num_labels=2).labels["train"].tolist()
    assert [1, 0] == number(["good", "bad"], names=("bad", "good"), num_labels=2).labels["train"].tolist()
    assert [0, 1] == number([-1, 1], names=("-1", "1"), num_labels=2).labels["train"].tolist()


def test_a_data_sets_own_names_go_before_its_numbers():
    """A column whose numbers have names is read by the names, so that the recipe's order holds."""
    columns = {"train": column([0, 1, 1], class_names=("neg", "pos"))}

    assert [1, 0, 0] == labels.number(columns, names=("pos", "neg"), num_labels=2).labels["train"].tolist()
    assert [0, 1, 1] == labels.number(columns, names=("bad", "good"), num_labels=2).labels["train"].tolist()
    assert ("neg", "pos") == labels.number(columns, names=None, num_labels=2).names
    with pytest.raises(LaunchError, match="label -1 in every row"):
        labels.number({"train": column([-1, -1], class_names=("neg", "pos"))}, names=("pos", "neg"), num_labels=2)


@pytest.mark.parametrize(
    ("train", "held", "options", "said"),
    [
        ([0, 1, 5], None, {"num_labels": 5}, "row 2: column 'label' has label 5, but model.num_labels is 5"),
        ([1, 2, 3, 4, 5, 6], [1], {"num_labels": 5}, "6 different labels are there"),
        ([0, 7, 9], None, {"num_labels": 2}, "has label 7"),
        (["c", "a", "b"], None, {"num_labels": 2}, "holds the text 'c'"),
        (["a", "b"], None, {"num_labels": 3}, "2 different labels are there: a, b"),
        (
            [1, 2, 3],
            None,
            {"num_labels": 3, "names": ("bad", "so", "good")},
            "has label 3, but there are 3 names, and labels run from 0 to 2",
        ),
        (["bad", "odd"], ["new"], {"num_labels": 2, "names": ("bad", "good")}, "the text 'odd'"),
        ([1, 2], [0], {"num_labels": 2, "names": ("1", "2")}, "label 0, which is none of the labels 1, 2"),
        ([-1, 0, 1], None, {"num_labels": 3}, "has label -1, which marks rows without a label"),
    ],
)
def test_the_fix_that_is_printed_is_right(train, held, options, said):
    """What the hint says, done, is accepted and has every row."""
    error = refused(train, held, **options)
    given = options | followed(error.hint)
    found = number(
        train, held, **{**given, "num_labels": len(given["names"]) if given.get("names") else given["num_labels"]}
    )

    assert said in error.what
    assert len(train) == len(found.labels["train"])
    assert all(count for i, count in enumerate(found.counts("train")) if found.names[i] in map(str, train))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([None, None], "is empty in every row: this split has no labels"),
        ([-1, -1], "has label -1 in every row"),
        ([0, None, 1, None], r"row 1 has no 'label' (2 such rows)"),
        ([0.0, float("nan")], "row 1 has no 'label'"),
        (["a", None], "row 1 has no 'label'"),
        ([0, 0.5], "is float64, not whole numbers: 0.5"),
        ([[0, 1], [1]], "is list<item: int64>, not numbers or names"),
        ([7, 7], "every row has that label"),
    ],
)
def test_rows_without_a_label_are_named(values, said):
    """Empty, -1, a score, a list."""
    assert said in refused(values).what


def test_booleans_go_by_names_that_say_true_and_false():
    """By place, label_names of [true, false] would call every true row false."""
    for names in (("True", "False"), ("false", "true")):
        found = number([True, False], num_labels=2, names=names)

        assert ["true", "false"] == [found.names[i].lower() for i in found.labels["train"]]


def test_texts_of_numbers_are_places_among_names_that_are_none():
    """JSON's "0" and "1" mean what 0 and 1 do, unless a name says otherwise."""
    assert [1, 0] == number(["1", "0"], num_labels=2, names=("bad", "good")).labels["train"].tolist()
    assert [1, 0] == number(["b", "1"], num_labels=2, names=("1", "b")).labels["train"].tolist()


def test_names_that_no_row_has_are_no_part_of_the_fix():
    """A model of four labels for data of two is no fix."""
    error = refused(["pos", "neg"], num_labels=2, names=("positive", "negative"))

    assert {"names": ("neg", "pos")} == followed(error.hint)


def test_labels_that_differ_in_spaces_or_case_are_told():
    """They are more often one label than two."""
    assert "write 'Good' as 'good'" in refused(["good", "Good", "bad"], num_labels=2).hint.replace(
        "'good' as 'Good'", "'Good' as 'good'"
    )
    assert "write ' a' as 'a'" in refused([" a", "a", "b"], num_labels=2).hint
    assert any("'a' and 'a ' differ in spaces" in note for note in number(["a", "a ", "b"], num_labels=3).notes)


@pytest.mark.parametrize("values", [[float("inf"), 1.0], [2**63, 1], [1e300, 1.0]])
def test_numbers_that_no_label_can_be_are_refused(values):
    """With the column, and not as pyarrow's own error."""
    assert "label" in refused(pa.array(values, pa.uint64() if values[0] == 2**63 else None), num_labels=2).what


def test_a_case_or_space_that_differs_is_pointed_out():
    assert "write it as 'good' in the data" == refused(["bad", "Good "], names=("bad", "good"), num_labels=2).hint


def test_trained_weights_keep_their_numbers():
    """An evaluation never numbers labels by the rows that it happens to have."""
    with pytest.raises(LaunchError, match="has label 5") as caught:
        number([1, 2, 3, 4, 5], trained=True)

    assert "the weights know 5 labels" in caught.value.hint
    assert [1, 2] == number([2, 3], names=tuple("12345"), trained=True).labels["train"].tolist()


def test_what_can_be_learned_and_measured_is_told():
    """One label alone, labels without rows, and rows to evaluate whose label no training row has."""

    def told(train: list[int], held: list[int]) -> str:
        columns = {"train": column(train), "eval": column(held, "test")}
        return "; ".join(labels.notes(labels.number(columns, names=None, num_labels=5), columns))

    assert "" == told([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    assert "every row of split 'train' has label 0, so there is nothing to tell apart" in told([0, 0], [0])
    assert "split 'train': labels 1 to 4 never occur: nothing is learned of them" in told([0, 0], [0])
    assert "split 'train': label 4 never occurs: nothing is learned of it" in told([0, 1, 2, 3], [0])
    assert "3 rows of split 'test' have label 3 and 4, which no training row has" in told([0, 1], [3, 4, 4, 0])
    assert "macro averages leave out what is never predicted either" in told([0, 1, 2, 3, 4], [0])


def test_evaluation_rows_that_are_training_rows_are_counted():
    """By their text, each evaluation row once; strings of any arrow type."""
    train = pa.chunked_array([pa.array(["a", "b", "b"]), pa.array(["c"])])

    assert 3 == labels.repeated(train, pa.chunked_array([pa.array(["b", "b", "x", "c"], pa.large_string())]))
    assert 0 == labels.repeated(train, pa.chunked_array([pa.array(["x"])]))
