"""Scores of each row's text alone, for predictions.jsonl and the report."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from launcher import plugins
from launcher.recipe import metrics as table
from launcher.recipe.metrics import OF_GENERATION, Metric
from launcher.worker.metrics.base import UndefinedError
from launcher.worker.tasks.predictions import Predictions

_NO_LABELS: dict[str, Any] = {"num_labels": 0, "label_names": ()}


def scored(names: Sequence[str], predictions: Predictions) -> Predictions:
    """With a column for each metric of texts among the names; the same where no text was written."""
    if not _are_written(predictions):
        return predictions
    scores = {metric.name: of_rows(metric, predictions) for metric in _of_texts(names)}
    return replace(predictions, columns={**predictions.columns, **scores})


def first(names: Sequence[str], predictions: Predictions) -> Metric | None:
    """The first of the metrics by which rows are scored; None where none is of texts, or no text was written."""
    return next(iter(_of_texts(names)), None) if _are_written(predictions) else None


def worst_first(metric: Metric, predictions: Predictions) -> list[int]:
    """Numbers of the rows that were written and `scored`, the worst first; of one score those with the largest losses."""
    sign = 1 if metric.greater_is_better else -1
    scores = [math.nan if score is None else sign * score for score in predictions.columns[metric.name]]
    order = np.lexsort((-predictions.mean_losses, scores)).tolist()
    return [row for row in order if not math.isnan(scores[row])]


def _are_written(predictions: Predictions) -> bool:
    return predictions.columns.keys() >= set(OF_GENERATION)


def _of_texts(names: Sequence[str]) -> list[Metric]:
    return [metric for metric in table.known(names) if metric.is_of_texts and metric.scores_rows]


def of_rows(metric: Metric, predictions: Predictions) -> list[float | None]:
    """Of each row, as if it were the only one; None where nothing was written."""
    columns = [predictions.column(name) for name in metric.columns]
    keywords = {name: value for name, value in _NO_LABELS.items() if name in metric.keywords}
    compute = functools.partial(plugins.load_object(metric.computation), **keywords)
    return [None if row[0] is None else _score(compute, row) for row in zip(*columns, strict=True)]


def _score(compute: Any, row: Sequence[Any]) -> float | None:
    try:
        value = float(compute(*([one] for one in row)))
    except UndefinedError:
        return None
    return value if math.isfinite(value) else None
