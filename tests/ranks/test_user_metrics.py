"""Metrics over ranks: a function of the user's, from the recipe to the best checkpoint, the report and a later evaluation; and
those of the rows' probabilities, from predictions.jsonl."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import yaml

from launcher.errors import EXIT_JOB_FAILED, EXIT_USER
from tests.conftest import REPO

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
COST = """import numpy as np

FAILS = False


def cost(columns, num_labels):
    far = np.abs(columns["label"] - columns["prediction"])
    if FAILS and len(far) == 101:
        return {}["far"]
    return float((far**2).mean() + num_labels)


cost.greater_is_better = False
"""


def written(folder: Path, text: str = COST) -> Path:
    path = folder / "mine.yaml"
    recipe = {
        "extends": str(REPO / "recipes" / "tiny-cpu.yaml"),
        "metrics": ["accuracy", "mcc", "roc_auc", "average_precision", "mine.py:cost"],
        "predictions": ["probabilities"],
        "training": {
            "num_train_epochs": 2,
            "learning_rate": 1.0e-3,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": "cost",
        },
    }
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (folder / "mine.py").write_text(text, encoding="utf-8")
    return path


def test_a_function_of_the_users_from_training_to_evaluation(ascend_launch, tmp_path: Path):
    """Two ranks: the figure is that of predictions.jsonl, and chooses the checkpoint. The file then changes: an evaluation by
    the run's own recipe, at one rank, gives the same digits and says that it did."""
    recipe, run, again = written(tmp_path), tmp_path / "run", tmp_path / "again"
    trained = ascend_launch(recipe, "--nproc", "2", "--device", "cpu", "--run-dir", run, cwd=tmp_path, COLUMNS="200")
    assert 0 == trained.code, trained.err

    metrics = json.loads((run / "metrics.json").read_text())
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    final = sum((row["label"] - row["prediction"]) ** 2 for row in rows) / len(rows) + 5
    assert pytest.approx(final, abs=1e-12) == metrics["final"]["cost"] > 5  # else all is right, and little compared
    true, shares = [row["label"] for row in rows], [row["probabilities"] for row in rows]
    assert sklearn.metrics.roc_auc_score(true, shares, multi_class="ovr") == metrics["final"]["roc_auc"]
    assert sklearn.metrics.average_precision_score(np.eye(5)[true], shares) == metrics["final"]["average_precision"]
    assert sklearn.metrics.matthews_corrcoef(true, [row["prediction"] for row in rows]) == metrics["final"]["mcc"]
    assert "cost" == metrics["best"]["metric"]
    assert min(row["cost"] for row in metrics["epochs"]) == metrics["best"]["value"]
    assert re.search(r"Validation Loss .*cost *\n", trained.out)
    assert "<figcaption>Cost" in (run / "report.html").read_text()

    (tmp_path / "mine.py").write_text("def cost(columns, num_labels):\n    return 0\n")
    evaluated = ascend_launch(
        "eval",
        run / "recipe.yaml",
        "--checkpoint",
        run,
        "--nproc",
        "1",
        "--device",
        "cpu",
        "--run-dir",
        again,
        cwd=tmp_path,
    )

    assert 0 == evaluated.code, evaluated.err
    assert metrics["final"]["cost"] == json.loads((again / "metrics.json").read_text())["final"]["cost"]
    assert "mine.py is not what it was when this run began" in evaluated.out + evaluated.err


def test_an_error_in_it_costs_no_training(ascend_launch, tmp_path: Path):
    """Before ranks start it is the user's mistake, with the line. In an evaluation the figure is null, and the job fails by
    that line once the model and the results are there."""
    recipe, run = written(tmp_path, COST.replace("(far**2)", "(fra**2)")), tmp_path / "run"
    refused = ascend_launch(recipe, "--nproc", "1", "--device", "cpu", "--run-dir", tmp_path / "refused", cwd=tmp_path)
    written(tmp_path, COST.replace("FAILS = False", "FAILS = True"))
    failed = ascend_launch(
        recipe,
        "--nproc",
        "1",
        "--device",
        "cpu",
        "--run-dir",
        run,
        "training.load_best_model_at_end=false",
        cwd=tmp_path,
    )

    assert EXIT_USER == refused.code
    assert f"{tmp_path}/mine.py:10: NameError: name 'fra' is not defined" in refused.err
    assert "Traceback" not in refused.err and not list((tmp_path / "refused").glob("attempt_0/rank_*"))
    assert EXIT_JOB_FAILED == failed.code
    assert f"{tmp_path}/mine.py:9: KeyError: 'far'" in failed.err + failed.out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["cost"] is None and metrics["final"]["accuracy"] > 0.2
    assert list((run / "model").glob("*.safetensors"))
