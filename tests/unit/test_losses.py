"""What a recipe may say of its loss, its class weights and its early end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LaunchError
from launcher.recipe.load import Loaded, load
from launcher.recipe.schema import Loss

Write = Callable[..., Path]


def loaded(path: Path) -> Loaded:
    return load(path, env={})


def mistakes(path: Path) -> str:
    with pytest.raises(LaunchError) as caught:
        loaded(path)
    return caught.value.what


def test_a_recipe_without_them_has_the_records_it_had(recipe: Write):
    """plan.json, the resolved recipe, and what the digest that a checkpoint is compared by is made of."""
    record = loaded(recipe()).spec.model_dump(mode="json")

    assert not {"loss", "early_stopping"} & record.keys()
    assert "class_weights" not in record["model"]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"loss": "focall"}, "'focall' is not one of cross-entropy, focal"),
        ({"loss": {"name": "focal", "gama": 1}}, "loss.gama: unknown key; did you mean `gamma`?"),
        ({"loss": {"name": "focal", "gamma": -1}}, "loss.gamma: expected a number from 0 on, got -1"),
        ({"loss": {"gamma": 1}}, "loss.gamma: cross-entropy has no parameter of this name"),
        ({"loss": "mine.py"}, "name a function of the file, FILE.py:FUNCTION"),
        ({"loss": "no_such.py:f"}, "no_such.py: no such file"),
        ({"loss": "mean-squared-error"}, "is not a loss of model.task: sequence-classification"),
        ({"loss": "focal", "model": {"task": "causal-lm"}}, "focal is not a loss of model.task: causal-lm"),
        ({"loss": "focal", "training": {"label_smoothing_factor": 0.1}}, "has no effect with loss: focal"),
        ({"model": {"class_weights": [1.0, 2.0]}}, "2 weights for 5 labels"),
        ({"model": {"class_weights": [0.0] * 5}}, "finite numbers from 0 on, and not all 0"),
        ({"model": {"class_weights": [1.0, -1.0, 1.0, 1.0, 1.0]}}, "finite numbers from 0 on, and not all 0"),
        ({"model": {"class_weights": "balanced", "task": "sft", "num_labels": None}}, "has no labels to weigh"),
        ({"model": {"label_names": list("abcde"), "class_weights": {"f": 2}}}, "'f' is none of a, b, c, d, e"),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience"),
        ({"early_stopping": {"early_stopping_patience": 2}}, "keys here are patience, threshold"),
        ({"early_stopping": {}, "data": {"eval": None}}, "nothing is evaluated during the training"),
        ({"early_stopping": {}, "training": {"eval_strategy": "no"}}, "nothing is evaluated during the training"),
        ({"early_stopping": {}, "training": {"eval_steps": 5}}, "needs a save for each evaluation"),
    ],
)
def test_what_does_not_go_together_is_refused(recipe: Write, sections: dict[str, Any], said: str):
    assert said in mistakes(recipe(**sections))


@pytest.mark.parametrize(
    "weights", ["balanced", [0.5, 1, 1, 0, 2.5], {"a": 3.0}], ids=["balanced", "by place", "by name"]
)
def test_class_weights_are_taken(recipe: Write, weights: Any):
    spec = loaded(recipe(model={"label_names": list("abcde"), "class_weights": weights})).spec

    assert weights == spec.model_dump(mode="json")["model"]["class_weights"]


def test_a_function_of_the_users_is_kept_with_the_recipe(recipe: Write, tmp_path: Path):
    """As those of metrics are: by its text, for nodes without the file."""
    text = "def total(logits, targets):\n    return logits.sum()\n"
    (tmp_path / "mine.py").write_text(text)
    spec = loaded(recipe(loss="mine.py:total")).spec

    assert ({"mine.py": text}, Loss(name="mine.py:total")) == (spec.code, spec.loss)


def test_early_stopping_keeps_the_best_model(recipe: Write):
    """By the loss, unless the recipe says otherwise; without a training section too."""
    plain, own = (
        loaded(recipe(early_stopping={"patience": 2}, **more)).spec.training
        for more in ({}, {"training": {"metric_for_best_model": "f1", "load_best_model_at_end": False}})
    )

    assert {"load_best_model_at_end": True, "metric_for_best_model": "loss"}.items() <= plain.items()
    assert {"load_best_model_at_end": False, "metric_for_best_model": "f1"}.items() <= own.items()
