"""The half of a task that runs in ranks, and what it is for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import plugins
from launcher.errors import LaunchError
from launcher.recipe.schema import num_labels
from launcher.recipe.tasks.table import MANY_LABELS, MULTI_LABEL, REGRESSION, VALUES

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec
    from launcher.worker.tasks.base import Task
    from launcher.worker.tasks.encoding import Encoder


def of(recipe: RecipeSpec) -> type[Task]:
    """The half of the recipe's task that runs in ranks."""
    worker: type[Task] = plugins.load_object(recipe.task.worker)
    return worker


def encoder(recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
    """How the recipe's rows become tokens; without torch, where the task needs none for that."""
    place = recipe.task.encoder
    made: Encoder = (plugins.load_object(place) if place else of(recipe).encoder)(recipe, tokenizer, label_names)
    return made


def check_labels(recipe: RecipeSpec, config: Any, folder: Path, *, has_head: bool) -> None:
    """Refuse trained weights whose head has another number of labels than the recipe.

    Raises:
        LaunchError: names both numbers.
    """
    if recipe.task.has_head and has_head and config.num_labels != num_labels(recipe):
        raise LaunchError(
            "{folder}: was trained for {num_labels} labels, the recipe has {recipe}",
            hint="use the recipe that it was trained with; data.eval may be another",
            folder=folder,
            num_labels=config.num_labels,
            recipe=num_labels(recipe),
        )


def problem_type(recipe: RecipeSpec) -> str | None:
    """The key of config.json by which transformers' pipelines know what the scores are; None of rows with one label, which is
    what they take a head for."""
    return {MANY_LABELS: MULTI_LABEL, VALUES: REGRESSION}.get(recipe.targets)


def auto_class(recipe: RecipeSpec) -> Any:
    """transformers' class for the recipe's task."""
    return of(recipe).auto_class()
