"""The table of metrics: a package's is one like any other, and nobody else goes by a metric's name."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from launcher import plugins
from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.planning import decide, plan
from launcher.recipe import load, metrics, schema
from launcher.report import charts, page
from launcher.rundir import records
from launcher.rundir.history import History
from launcher.show import live, results
from launcher.worker.tasks.metrics import compute
from launcher.worker.tasks.predictions import Predictions
from tests.support.decisions import decisions, names_in

LAUNCHER = Path(schema.__file__).resolve().parent.parent
PACKAGE = LAUNCHER.parent / "tests" / "packages" / "errors"
CPU = Cluster("cpu", source="a test")
Write = Callable[..., Path]
BEST = {"load_best_model_at_end": True, "eval_strategy": "epoch", "metric_for_best_model": "error_rate"}


@pytest.fixture
def error_rate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package that has the metric `error_rate` is installed."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()
    plugins._load.cache_clear()


def drawn(history: History, own: tuple[str, ...] = ()) -> list[str]:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(live.panel(history, 60.0, width=200, height=24, own=own))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def evaluated(**figures: Any) -> History:
    log = {"step": 10, "epoch": 1.0, "loss": 0.5, "learning_rate": 1e-5, "grad_norm": 1.0}
    rows = [
        {"event": "train", "time": 1.0, "max_steps": 20, "num_train_epochs": 2},
        {"event": "log", "time": 2.0, **log},
        {"event": "eval", "time": 3.0, "step": 10, "epoch": 1.0, "eval_loss": 0.5, **figures},
    ]
    return History.of(map(records.event, rows))


@pytest.mark.parametrize("name", metrics.BUILT_IN)
def test_every_metric_goes_by_its_name_and_has_its_computation(name: str):
    metric = metrics.load(name)

    assert (name, metrics.INTERFACE) == (metric.name, metric.interface)
    assert callable(plugins.load_object(metric.computation))


def test_a_recipe_may_name_a_metric_of_another_package(error_rate: None, recipe: Write):
    """It chooses the best checkpoint, by the direction that the package says."""
    made = decide.make(load.load(recipe(metrics=["error_rate"], training=BEST), (), {}), CPU, plan.Options(nproc=2))

    assert ("error_rate",) == made.recipe.metrics
    found = made.training_arguments
    assert ("error_rate", False) == (found["metric_for_best_model"], found["greater_is_better"])


def test_a_wrong_direction_is_refused_for_it_too(error_rate: None, recipe: Write):
    with pytest.raises(LaunchError, match="of error_rate less is better"):
        load.load(recipe(metrics=["error_rate"], training={**BEST, "greater_is_better": True}), (), {})


def test_without_the_package_its_name_is_unknown(recipe: Write):
    known = f"{', '.join(metrics.BUILT_IN[:-1])} or {metrics.BUILT_IN[-1]}"
    with pytest.raises(LaunchError, match=f"'error_rate' is not one of {known}"):
        load.load(recipe(metrics=["error_rate"]), (), {})


def test_a_mistyped_name_lists_those_of_packages_too(error_rate: None, recipe: Write):
    with pytest.raises(LaunchError, match="label_accuracy or error_rate; did you mean `error_rate`"):
        load.load(recipe(metrics=["eror_rate"]), (), {})


def test_a_package_for_another_version_is_refused_before_a_launch(
    error_rate: None, recipe: Write, monkeypatch: pytest.MonkeyPatch
):
    package = importlib.import_module("error_rate_metric")
    monkeypatch.setattr(package, "ERROR_RATE", dataclasses.replace(package.ERROR_RATE, interface=0))

    with pytest.raises(LaunchError, match=r"error-rate-metric 1.0 is for interface 0, and this launcher has 1"):
        load.load(recipe(metrics=["error_rate"]), (), {})


def test_ranks_compute_it_over_every_row(error_rate: None):
    columns = {"label": np.array([1, 0, 2, 0]), "prediction": np.array([1, 1, 2, 2])}
    predictions = Predictions(columns, np.zeros(4), np.ones(4, np.int64))

    assert {"error_rate": 0.5, "accuracy": 0.5} == compute(("error_rate", "accuracy"), predictions, num_labels=3)


def test_the_panel_and_the_table_at_the_end_show_it(error_rate: None):
    assert any("eval loss 0.5000  error rate 0.2500" in line for line in drawn(evaluated(error_rate=0.25)))

    row = {"epoch": 1.0, "train_loss": 0.5, "eval_loss": 0.25, "error_rate": 0.125}
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(results.epochs({"epochs": [row], "final": {"error_rate": 0.125}}))
    heading, values = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert ["Epoch", "Training Loss", "Validation Loss", "Error Rate"] == [
        word.strip() for word in heading.strip().split("  ") if word.strip()
    ]
    assert ["1", "0.500000", "0.250000", "0.125000"] == values.split()


def test_a_table_of_many_figures_goes_on_below():
    """Nothing of a narrow terminal's table is cut; each part begins with the epoch."""
    final = dict.fromkeys(
        ("accuracy", "precision", "recall", "f1", "f1_micro", "roc_auc", "average_precision"), 0.123456
    )
    rows = [{"epoch": number, "train_loss": 0.5, "eval_loss": 0.25, **final} for number in (1.0, 2.0)]
    console = Console(file=io.StringIO(), width=60, force_terminal=False)
    console.print(results.epochs({"epochs": rows, "final": final}))
    drawn_table = console.file.getvalue()  # type: ignore[attr-defined]

    assert "…" not in drawn_table
    assert len(final) * 2 == drawn_table.count("0.123456")
    assert max(map(len, drawn_table.splitlines())) <= 60
    assert ["1", "2"] * 2 == [line.split()[0] for line in drawn_table.splitlines() if "0.123456" in line]


def drawn_table(table: Any, width: int = 100) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_the_table_has_evaluations_between_epochs():
    """In order; one at the end of an epoch is in the epoch's row. Where they are many, the epochs stand alone."""

    def evaluations(count: int) -> list[records.Eval]:
        more = {"eval_loss": 0.25, "accuracy": 0.5}
        return [records.Eval(step=step, epoch=step * 2 / count, more=more) for step in range(1, count + 1)]

    ends = [{"epoch": 1.0, "train_loss": 0.75}, {"epoch": 2.0, "train_loss": 0.125, "eval_loss": 1.0}]
    made = {"epochs": ends, "final": {"accuracy": 0.5}}

    assert [
        ["0.5", "-", "0.250000", "0.500000"],
        ["1", "0.750000", "0.250000", "0.500000"],
        ["1.5", "-", "0.250000", "0.500000"],
        ["2", "0.125000", "1.000000", "0.500000"],
    ] == drawn_table(results.epochs(made, evals=evaluations(4)))[1:]
    assert ["1", "2"] == [row[0] for row in drawn_table(results.epochs(made, evals=evaluations(100)))[1:]]


def test_each_set_has_a_line_of_its_figures():
    final = {"eval_loss": 1.0, "accuracy": 0.5, "short_loss": 0.25, "short_accuracy": 1.0, "long_loss": 2.0}
    assert [["short", "0.250000", "1.000000"], ["long", "2.000000", "-"]] == drawn_table(
        results.sets(final, ["short", "long"])
    )[1:]


def test_the_panel_shows_functions_of_the_users():
    assert any("eval loss 0.5000  cost 3.2500" in line for line in drawn(evaluated(cost=3.25, other=1.0), ("cost",)))


def with_figure(folder: Path, value: float) -> Path:
    """A run directory whose evaluation has an error rate."""
    folder.mkdir()
    rows = [
        {"event": "train", "time": 1.0, "max_steps": 20, "num_train_epochs": 2},
        {"event": "eval", "time": 2.0, "step": 10, "epoch": 1.0, "eval_loss": 0.5, "error_rate": value},
        {"event": "eval", "time": 3.0, "step": 20, "epoch": 2.0, "eval_loss": 0.5, "error_rate": value},
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps({"name": "mine"}), encoding="utf-8")
    (folder / "recipe.yaml").write_text("{}", encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps({"final": {"error_rate": value}}), encoding="utf-8")
    return folder


def test_the_report_draws_it_and_knows_which_run_is_best(error_rate: None, tmp_path: Path):
    runs = page.load_all([with_figure(tmp_path / "a", 0.25), with_figure(tmp_path / "b", 0.125)])

    assert ("error_rate", [0.25, 0.125], 0.125) in page.figure_table(runs)
    assert "Error rate" in {chart.title for chart in charts.compared(runs)}
    scores = next(chart for chart in charts.of_run(runs[0]) if chart.title == "Scores of the evaluation")
    assert "error rate" in {line.label for line in scores.lines}
    assert [0.25, 0.125] == [run["figures"]["error_rate"] for run in page.summary(runs)["runs"]]


def test_a_report_of_a_run_with_a_metric_that_is_not_installed_has_its_number(tmp_path: Path):
    runs = page.load_all([with_figure(tmp_path / "a", 0.25)])

    assert ("error_rate", [0.25], None) in page.figure_table(runs)


def files() -> list[Path]:
    own = {*(LAUNCHER / "recipe" / "metrics").iterdir(), *(LAUNCHER / "worker" / "metrics").iterdir()}
    return [path for path in sorted(LAUNCHER.rglob("*.py")) if path not in own]


ALLOWED = {
    "page.py: 'confusion_matrix'": "a key of the report's JSON, whichever metric the table of labels is of",
    "page.py: 'recall'": "the recall of one label in the report's table",
}
"""What has the name of a metric and is none."""


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(LAUNCHER)))
def test_nothing_is_decided_by_a_metrics_name(path: Path):
    """Whoever wants to know something asks the metric. `precision` is also a key of a plan: bf16 or fp32."""
    names = set(metrics.BUILT_IN) - {"precision"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {f"{path.name}: {name!r}" for node in decisions(tree) for name in names & set(names_in(node))}

    assert set() == found - ALLOWED.keys()


def test_figures_of_tokens_are_over_all_of_them_and_over_each_set():
    """Two sets of rows with 1 to 5 tokens: perplexity and token accuracy are of all tokens, not means over rows; each set has
    its own, and its rows are counted from 0 in predictions.jsonl."""
    correct, counts, losses = np.array([1, 0, 5]), np.array([1, 4, 5]), np.array([0.5, 8.0, 1.5])
    sets = {"a": slice(0, 2), "b": slice(2, 3)}
    predictions = Predictions({"correct": correct}, losses, counts, sets)
    names = ("perplexity", "token_accuracy")

    assert {"perplexity": np.exp(1.0), "token_accuracy": 0.6} == compute(names, predictions, num_labels=0)
    of_a = compute(names, predictions.part("a"), num_labels=0)
    assert {"perplexity": np.exp(8.5 / 5), "token_accuracy": 0.2} == of_a
    rows = [json.loads(line) for line in predictions.lines()]
    assert [("a", 0), ("a", 1), ("b", 0)] == [(row["set"], row["index"]) for row in rows]
    assert [0.5, 8.0, 1.5] == [row["loss"] for row in rows]
    assert losses.sum() / counts.sum() == predictions.loss


@pytest.mark.parametrize(
    ("figure", "greater"),
    [("loss", False), ("held-out_loss", False), ("a_b_token_accuracy", True), ("perplexity", False), ("los", None)],
)
def test_a_sets_figure_has_the_direction_of_all(figure: str, greater: bool | None):
    assert greater is metrics.greater_is_better(figure)


def test_the_best_may_be_by_the_figure_of_one_set(recipe: Write):
    """A name of a set and a figure; another set's is refused with those that there are."""
    sets = {"model": {"task": "sft", "num_labels": None}, "data": {"eval": {"one": {"path": "x.jsonl"}}}}
    by = {"load_best_model_at_end": True, "eval_strategy": "epoch"}
    loaded = load.load(recipe(**sets, training={**by, "metric_for_best_model": "one_perplexity"}), (), {})
    made = decide.make(loaded, CPU, plan.Options(nproc=1))
    arguments = made.training_arguments

    assert ("one_perplexity", False) == (arguments["metric_for_best_model"], arguments["greater_is_better"])
    with pytest.raises(LaunchError, match=r"`two_perplexity` is none of .*one_perplexity.*; did you mean"):
        load.load(recipe(**sets, training={**by, "metric_for_best_model": "two_perplexity"}), (), {})
