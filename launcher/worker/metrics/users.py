"""Metrics that are functions of the user's: `cost(columns, num_labels)` of a recipe's `metrics: [mine.py:cost]`."""

from __future__ import annotations

from typing import Any

import numpy as np

from launcher.errors import LaunchError
from launcher.planning.plan import Plan
from launcher.recipe import metrics, schema, user_code
from launcher.recipe.tasks.table import MANY_LABELS, TAGS, VALUES
from launcher.worker import user_code as worker_code
from launcher.worker.user_code import UserFunction

NUM_ROWS = 8
"""Of the made-up rows that a function is tried on."""


def functions(plan: Plan) -> dict[str, UserFunction]:
    """The user's among the recipe's metrics, by the names that it has for them.

    Raises:
        LaunchError: a file of the user's cannot be run, with its line.
    """
    named = {name: user_code.reference(name) for name in plan.recipe.metrics}
    return {name: worker_code.load(plan, one) for name, one in named.items() if one is not None}


def value(function: UserFunction, columns: dict[str, Any], num_labels: int) -> float:
    """What it makes of all rows.

    Raises:
        LaunchError: it fails, with the line of the user's file, or returns something else than a number.
    """
    returned = function(columns, num_labels)
    try:
        return float(returned)
    except (TypeError, ValueError):
        raise LaunchError(
            "{function} returned {returned!r}, which is not a number",
            hint="return one number, the score of all rows",
            function=function.reference,
            returned=returned,
        ) from None


def check(plan: Plan) -> None:
    """Try each of them on a few made-up rows, before any rank starts.

    Raises:
        LaunchError: as `functions` and `value`.
    """
    recipe = plan.recipe
    for name, function in functions(plan).items():
        metric = metrics.named([name], recipe.code)[0]
        names = dict.fromkeys((*recipe.task.columns, *metric.columns, *metrics.OF_EVERY_TASK))
        count = schema.num_labels(recipe)
        value(function, made_up(names, recipe.task.targets(recipe.model, recipe.data), count), count)


def made_up(names: Any, targets: str, num_labels: int) -> dict[str, Any]:
    """Columns of rows that there might be, of the kinds that an evaluation leaves."""
    drawn = np.random.default_rng(0)
    numbers = {
        VALUES: lambda: drawn.normal(size=NUM_ROWS),
        MANY_LABELS: lambda: drawn.integers(0, 2, (NUM_ROWS, num_labels)),
        TAGS: lambda: [drawn.integers(0, num_labels, 1 + i).tolist() for i in range(NUM_ROWS)],
    }.get(targets, lambda: np.arange(NUM_ROWS) % max(num_labels, 1))
    columns: dict[str, Any] = {
        "scores": lambda: drawn.normal(size=(NUM_ROWS, max(num_labels, 1))),
        "probabilities": lambda: drawn.dirichlet(np.ones(max(num_labels, 1)), NUM_ROWS),
        "text": lambda: ["a b"] * NUM_ROWS,
        "reference": lambda: ["a c"] * NUM_ROWS,
        "loss": lambda: drawn.random(NUM_ROWS),
        "count": lambda: np.full(NUM_ROWS, 2),
    }
    return {name: columns.get(name, numbers)() for name in names}
