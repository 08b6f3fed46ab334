"""Figures from what was predicted: arithmetic over whole lists of labels, on one rank, with no hub."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import plugins
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe import metrics as table
from launcher.worker.metrics import users
from launcher.worker.metrics.base import UndefinedError
from launcher.worker.tasks.predictions import LABELS, Predictions, is_numbers
from launcher.worker.user_code import UserFunction

MODULE = Path(__file__).parent / "evaluate_modules" / "labels.py"
"""An `evaluate` module; its configurations are the names of metrics."""


@dataclass
class Remarks:
    """What is to be said of figures that have no value."""

    notes: list[str] = field(default_factory=list)
    failures: list[LaunchError] = field(default_factory=list)
    """Of functions of the user's; those figures are NaN, and the run fails once its results are written."""


def compute(
    names: Sequence[str],
    predictions: Predictions,
    *,
    num_labels: int,
    label_names: Sequence[str] = (),
    functions: Mapping[str, UserFunction] | None = None,
    remarks: Remarks | None = None,
) -> dict[str, Any]:
    """The named figures.

    Args:
        names: of the table of metrics, or FILE.py:FUNCTION.
        predictions: every row once.
        num_labels: labels are 0..num_labels-1; a class without rows still has its row and column.
        label_names: of the labels.
        functions: the user's, by those names.
        remarks: gets what is to be said of figures without a value.

    Returns:
        name → number, or a num_labels x num_labels list of counts for confusion_matrix; without those of texts where none
        were generated. NaN for each name where a row has no prediction, since figures of the other rows would be of
        another evaluation; for a figure that these rows do not define; and for a function of the user's that fails.
    """
    functions, remarks = functions or {}, remarks or Remarks()
    figures: dict[str, Any] = {}
    keywords = {"num_labels": num_labels, "label_names": label_names}
    for name in names:
        key = functions[name].reference.function if name in functions else name
        needed = functions[name].columns if name in functions else table.load(name).columns
        if not set(needed).intersection(table.OF_GENERATION) <= predictions.columns.keys():
            continue  # texts are not generated at each evaluation
        figures[key] = math.nan
        if predictions.unscored:
            continue
        try:
            if name in functions:
                figures[key] = _of_user(functions[name], predictions, num_labels)
            else:
                figures[key] = _of_table(name, predictions, keywords)
        except UndefinedError as error:
            remarks.notes.append(Message("{name} is not defined for these rows: {error}", name=name, error=error))
        except LaunchError as error:
            remarks.notes.append(Message("{name} is NaN: {what}", name=key, what=error.what))
            remarks.failures.append(error)
    return figures


def _of_user(function: UserFunction, predictions: Predictions, num_labels: int) -> float:
    columns = {name: predictions.column(name) for name in (*predictions.columns, *table.OF_EVERY_TASK)}
    return users.value(function, columns, num_labels)


def _of_table(name: str, predictions: Predictions, keywords: Mapping[str, Any]) -> Any:
    metric = table.load(name)
    columns: list[Any] = [predictions.column(column) for column in metric.columns]
    if metric.is_of_texts:
        columns = _generated(columns)
    if not len(columns[0]):
        raise UndefinedError(Message("there are none"))
    if metric.columns == LABELS and all(is_numbers(column) for column in columns):
        return _module(name).compute(references=columns[0], predictions=columns[1], **keywords)[name]
    given = {keyword: keywords[keyword] for keyword in metric.keywords}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn of labels that do not occur; macro_facts says which do
        return plugins.load_object(metric.computation)(*columns, **given)


def _generated(columns: Sequence[Any]) -> list[list[str]]:
    """Of the rows for which a text was generated."""
    rows = [row for row in zip(*columns, strict=True) if row[0] is not None]
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]


@functools.cache  # reading one takes longer than its figure
def _module(name: str) -> Any:
    import evaluate

    return evaluate.load(str(MODULE), name, keep_in_memory=True)
