"""The metrics: scores of an evaluation. Each is one object of a file beside this one, an entry point of another package in the
group `ascend_launch.metrics`, or a function of the user's; a recipe, the screen, the report and the choice of the best checkpoint
ask it, and know no name.

Facts only: `computation` says where the function is that ranks call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from launcher.errors import LaunchError
from launcher.plugins import Table
from launcher.recipe import user_code
from launcher.recipe.tasks.table import TARGETS
from launcher.recipe.user_code import Reference

INTERFACE = 1
SHARE = "share of 1"
"""Unit of metrics between 0 and 1, which are drawn in one chart."""
OF_EVERY_TASK = ("loss", "count")
"""Columns that every evaluation has: the loss of each row, summed, and over how many things it was summed."""
OF_GENERATION = ("text", "reference")
"""Columns of the rows for which an evaluation generates a text: that text, and the one that the data has."""
EVERY_TARGET = frozenset(TARGETS)
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
    """`module:function` in ranks: from an array or a list for each of `columns`, in that order and each row once, and the
    `keywords`, to the value."""
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
    keywords: tuple[str, ...] = ("num_labels",)
    """What else its function takes: num_labels, label_names."""
    targets: frozenset[str] = EVERY_TARGET
    """What a task's rows may be labelled with, of launcher.recipe.tasks.table.TARGETS."""
    scores_rows: bool = True
    """Of texts: whether it scores a row as well without the others."""
    needs: tuple[str, ...] = ()
    """Packages that its function imports, beside those of every training; launcher.diagnose.doctor.versions knows them."""
    function: Reference | None = None
    """Of a metric that is a function of the user's."""

    @property
    def is_of_texts(self) -> bool:
        """Whether it compares generated texts with references."""
        return not set(self.columns).isdisjoint(OF_GENERATION)

    @property
    def is_figure(self) -> bool:
        """Whether the value is one number, by which evaluations can be compared."""
        return self.greater_is_better is not None


_HERE = "launcher.recipe.metrics"
TABLE: Table[Metric] = Table(
    "metric",
    "ascend_launch.metrics",
    INTERFACE,
    {
        "accuracy": f"{_HERE}.accuracy:ACCURACY",
        "precision": f"{_HERE}.precision:PRECISION",
        "recall": f"{_HERE}.recall:RECALL",
        "f1": f"{_HERE}.f1:F1",
        "mae": f"{_HERE}.mae:MAE",
        "confusion_matrix": f"{_HERE}.confusion_matrix:CONFUSION_MATRIX",
        "perplexity": f"{_HERE}.perplexity:PERPLEXITY",
        "token_accuracy": f"{_HERE}.token_accuracy:TOKEN_ACCURACY",
        "precision_weighted": f"{_HERE}.precision:PRECISION_WEIGHTED",
        "recall_weighted": f"{_HERE}.recall:RECALL_WEIGHTED",
        "f1_weighted": f"{_HERE}.f1:F1_WEIGHTED",
        "f1_micro": f"{_HERE}.f1:F1_MICRO",
        "balanced_accuracy": f"{_HERE}.balanced_accuracy:BALANCED_ACCURACY",
        "mcc": f"{_HERE}.mcc:MCC",
        "cohen_kappa": f"{_HERE}.cohen_kappa:COHEN_KAPPA",
        "hamming_loss": f"{_HERE}.hamming_loss:HAMMING_LOSS",
        "roc_auc": f"{_HERE}.roc_auc:ROC_AUC",
        "average_precision": f"{_HERE}.average_precision:AVERAGE_PRECISION",
        "mse": f"{_HERE}.mse:MSE",
        "rmse": f"{_HERE}.rmse:RMSE",
        "r2": f"{_HERE}.r2:R2",
        "pearson": f"{_HERE}.pearson:PEARSON",
        "spearman": f"{_HERE}.spearman:SPEARMAN",
        "entity_f1": f"{_HERE}.entity_f1:ENTITY_F1",
        "entity_precision": f"{_HERE}.entity_precision:ENTITY_PRECISION",
        "entity_recall": f"{_HERE}.entity_recall:ENTITY_RECALL",
        "exact_match": f"{_HERE}.exact_match:EXACT_MATCH",
        "text_f1": f"{_HERE}.text_f1:TEXT_F1",
        "rouge1": f"{_HERE}.rouge:ROUGE1",
        "rouge2": f"{_HERE}.rouge:ROUGE2",
        "rougeL": f"{_HERE}.rouge:ROUGE_L",
        "bleu": f"{_HERE}.bleu:BLEU",
        "chrf": f"{_HERE}.chrf:CHRF",
        "label_accuracy": f"{_HERE}.label_accuracy:LABEL_ACCURACY",
    },
)
BUILT_IN = tuple(TABLE.built_in)


def load(name: str) -> Metric:
    """The metric of this name. Raises LaunchError where there is none."""
    return TABLE.load(name)


def of_function(function: Reference, text: str) -> Metric:
    """A function of the user's as a metric, by what its file says of it.

    Raises:
        LaunchError: the file does not say which direction is better, or says what cannot be.
    """
    said = user_code.attributes(text, function.function)
    place: dict[str, Any] = {"file": function.file, "function": function.function}
    place["line"] = user_code.line_of(text, function.function)
    better, columns = said.get("greater_is_better"), said.get("columns", ())
    if not isinstance(better, bool):
        raise LaunchError(
            "{file}:{line}: nothing says whether more of {function} is better; write `{function}.greater_is_better = "
            "False` (or True) below it",
            **place,
        )
    if not isinstance(columns, tuple | list) or not all(isinstance(column, str) for column in columns):
        raise LaunchError("{file}:{line}: {function}.columns is not a list of names of columns", **place)
    if function.function in TABLE or function.function == LOSS:
        raise LaunchError("{file}:{line}: {function} is the name of another figure; rename the function", **place)
    return Metric(
        interface=INTERFACE,
        name=function.function,
        computation=str(function),
        greater_is_better=better,
        label=function.function,
        heading=function.function,
        unit=function.function,
        columns=tuple(columns),
        function=function,
    )


def figure_names(names: Iterable[str]) -> list[str]:
    """As metrics.json has them: a function of the user's goes by its own name."""
    functions = {name: user_code.reference(name) for name in names}
    return [name if one is None else one.function for name, one in functions.items()]


def named(names: Iterable[str], code: Mapping[str, str]) -> list[Metric]:
    """The metrics of a recipe.

    Args:
        names: of the table, or FILE.py:FUNCTION.
        code: the files' texts.

    Raises:
        LaunchError: there is none of a name, or a function of the user's is none.
    """
    functions = {name: user_code.reference(name) for name in names}
    return [load(name) if one is None else of_function(one, code[one.file]) for name, one in functions.items()]


def of_the_user(recipe: Mapping[str, Any]) -> list[Metric]:
    """The user's own among the metrics of a recipe as plan.json has it; what cannot be read is left out."""
    metrics = []
    names, code = recipe.get("metrics") or (), recipe.get("code") or {}
    for name in names if isinstance(names, list | tuple) else ():
        one = user_code.reference(name)
        try:
            metrics += [] if one is None else [of_function(one, code[one.file])]
        # Of a run of another machine, whose text may be anything.
        except (LaunchError, KeyError, TypeError, SyntaxError, ValueError, StopIteration, RecursionError, MemoryError):
            continue
    return metrics


def known(names: Iterable[str], own: Iterable[Metric] = ()) -> list[Metric]:
    """The metrics among these names, which may come from a run of another machine: what is not installed is left out.
    `own`: those of the user's."""
    by_name = {metric.name: metric for metric in own}
    metrics = []
    for name in names:
        try:
            metrics += [by_name[name]] if name in by_name else [load(name)] if name in TABLE else []
        except LaunchError:  # a package that does not work spoils no report of what it once computed
            continue
    return metrics


def figures(own: Iterable[Metric] = ()) -> list[Metric]:
    """Every metric whose value is one number, in the table's order, and then the user's."""
    return [metric for metric in (*known(TABLE.names()), *own) if metric.is_figure]


def figures_among(names: Iterable[str], own: Iterable[Metric] = ()) -> list[Metric]:
    """Those of these names whose value is one number, in the order of the names."""
    return [metric for metric in known(names, own) if metric.is_figure]


def greater_is_better(figure: str, own: Iterable[Metric] = ()) -> bool | None:
    """Whether more of a figure of an evaluation is better; None where there is no such figure, or it is a table. Of one of
    several sets, SET_loss, it is as of all."""
    words = figure.split("_")
    names = ["_".join(words[start:]) for start in range(len(words))]
    if LOSS in names:
        return False
    return next((metric.greater_is_better for metric in known(names, own)), None)


def of_sets(figures: Iterable[str], sets: Iterable[str]) -> list[str]:
    """Names of figures of all rows, and then of each set that is evaluated by its name."""
    figures = list(figures)
    return [*figures, *(f"{name}_{figure}" for name in sets for figure in figures)]
