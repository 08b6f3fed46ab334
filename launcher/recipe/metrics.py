"""The metrics: scores of an evaluation. Each is one object of the table, or an entry point of another package in the group
`ascend_launch.metrics`; a recipe, the screen, the report and the choice of the best checkpoint ask it, and know no name.

Facts only: `computation` says where the function is that ranks call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from launcher.errors import LaunchError
from launcher.plugins import Table

INTERFACE = 1
SHARE = "share of 1"
"""Unit of metrics between 0 and 1, which are drawn in one chart."""
OF_EVERY_TASK = ("loss", "count")
"""Columns that every evaluation has: the loss of each row, summed, and over how many things it was summed."""
LOSS = "loss"
"""A figure of every evaluation, with a direction, that is not a metric: the task computes it."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of an evaluation, and how it is shown. A package makes one of its own."""

    interface: int
    """INTERFACE of the launcher that it was written for."""
    name: str
    """As `metrics:` of a recipe, `metric_for_best_model` and metrics.json say it."""
    computation: str
    """`module:function` in ranks: from an array for each of `columns`, in that order and each row once, and the keyword
    num_labels, to the value."""
    greater_is_better: bool | None
    """None where the value is not a single number but a square table of counts: true labels down, predicted ones across."""
    label: str
    """In a chart's legend and title: mean absolute error."""
    heading: str
    """Above its column of the table of epochs: MAE."""
    unit: str = SHARE
    """Of the chart's axis. What is not a share of 1 has a chart of its own, from zero."""
    is_macro_average: bool = False
    """Whether each label has a value, and this is the mean over those that occur or were predicted."""
    in_panel: bool = False
    """Whether the panel below a running job has room for it."""
    columns: tuple[str, ...] = ("label", "prediction")
    """What it needs of each row; a task names what its evaluation leaves."""

    @property
    def is_figure(self) -> bool:
        """Whether the value is one number, by which evaluations can be compared."""
        return self.greater_is_better is not None


_SCORES = "launcher.worker.tasks.scores"
ACCURACY = Metric(
    interface=INTERFACE,
    name="accuracy",
    computation=f"{_SCORES}:accuracy",
    greater_is_better=True,
    label="accuracy",
    heading="Accuracy",
    in_panel=True,
)
PRECISION = Metric(
    interface=INTERFACE,
    name="precision",
    computation=f"{_SCORES}:precision",
    greater_is_better=True,
    label="precision",
    heading="Precision",
    is_macro_average=True,
)
RECALL = Metric(
    interface=INTERFACE,
    name="recall",
    computation=f"{_SCORES}:recall",
    greater_is_better=True,
    label="recall",
    heading="Recall",
    is_macro_average=True,
)
F1 = Metric(
    interface=INTERFACE,
    name="f1",
    computation=f"{_SCORES}:f1",
    greater_is_better=True,
    label="F1",
    heading="F1",
    is_macro_average=True,
)
MAE = Metric(
    interface=INTERFACE,
    name="mae",
    computation=f"{_SCORES}:mean_absolute_error",
    greater_is_better=False,
    label="mean absolute error",
    heading="MAE",
    unit="labels apart",
)
CONFUSION_MATRIX = Metric(
    interface=INTERFACE,
    name="confusion_matrix",
    computation=f"{_SCORES}:confusion_matrix",
    greater_is_better=None,
    label="confusion matrix",
    heading="Confusion matrix",
)
PERPLEXITY = Metric(
    interface=INTERFACE,
    name="perplexity",
    computation=f"{_SCORES}:perplexity",
    greater_is_better=False,
    label="perplexity",
    heading="Perplexity",
    unit="e to the mean loss",
    columns=OF_EVERY_TASK,
)
TOKEN_ACCURACY = Metric(
    interface=INTERFACE,
    name="token_accuracy",
    computation=f"{_SCORES}:token_accuracy",
    greater_is_better=True,
    label="token accuracy",
    heading="Token accuracy",
    in_panel=True,
    columns=("correct", "count"),
)

_HERE = "launcher.recipe.metrics"
TABLE: Table[Metric] = Table(
    "metric",
    "ascend_launch.metrics",
    INTERFACE,
    {
        "accuracy": f"{_HERE}:ACCURACY",
        "precision": f"{_HERE}:PRECISION",
        "recall": f"{_HERE}:RECALL",
        "f1": f"{_HERE}:F1",
        "mae": f"{_HERE}:MAE",
        "confusion_matrix": f"{_HERE}:CONFUSION_MATRIX",
        "perplexity": f"{_HERE}:PERPLEXITY",
        "token_accuracy": f"{_HERE}:TOKEN_ACCURACY",
    },
)
BUILT_IN = tuple(TABLE.built_in)


def load(name: str) -> Metric:
    """The metric of this name. Raises LaunchError where there is none."""
    return TABLE.load(name)


def known(names: Iterable[str]) -> list[Metric]:
    """The metrics among these names, which may come from a run of another machine: what is not installed is left out."""
    metrics = []
    for name in names:
        try:
            metrics += [load(name)] if name in TABLE else []
        except LaunchError:  # a package that does not work spoils no report of what it once computed
            continue
    return metrics


def figures() -> list[Metric]:
    """Every metric whose value is one number, in the table's order."""
    return [metric for metric in known(TABLE.names()) if metric.is_figure]


def figures_among(names: Iterable[str]) -> list[Metric]:
    """Those of these names whose value is one number, in the order of the names."""
    return [metric for metric in known(names) if metric.is_figure]


def greater_is_better(figure: str) -> bool | None:
    """Whether more of a figure of an evaluation is better; None where there is no such figure, or it is a table. Of one of
    several sets, SET_loss, it is as of all."""
    words = figure.split("_")
    names = ["_".join(words[start:]) for start in range(len(words))]
    if LOSS in names:
        return False
    return next((metric.greater_is_better for metric in known(names)), None)


def of_sets(figures: Iterable[str], sets: Iterable[str]) -> list[str]:
    """Names of figures of all rows, and then of each set that is evaluated by its name."""
    figures = list(figures)
    return [*figures, *(f"{name}_{figure}" for name in sets for figure in figures)]
