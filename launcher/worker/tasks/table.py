"""The tasks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from launcher.errors import LaunchError
from launcher.recipe.schema import num_labels
from launcher.worker.tasks.answers import Answering
from launcher.worker.tasks.base import Task, base_model
from launcher.worker.tasks.classification import Classification, hides_padding

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared


def check_labels(recipe: RecipeSpec, config: Any, folder: Path, *, has_head: bool) -> None:
    """Refuse trained weights whose head has another number of labels than the recipe.

    Raises:
        LaunchError: names both numbers.
    """
    if recipe.model.task == "sequence-classification" and has_head and config.num_labels != num_labels(recipe):
        raise LaunchError(
            "{folder}: was trained for {num_labels} labels, the recipe has {recipe}",
            hint="use the recipe that it was trained with; data.eval may be another",
            folder=folder,
            num_labels=config.num_labels,
            recipe=num_labels(recipe),
        )


def auto_class(recipe: RecipeSpec) -> Any:
    """transformers' class for the recipe's task."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if recipe.model.task == "causal-lm" else AutoModelForSequenceClassification


def task(plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> Task:
    """The recipe's task, for this model."""
    multiple = plan.accelerator.pads_to
    smoothing = float(plan.training_arguments.get("label_smoothing_factor", 0.0))
    if plan.recipe.model.task == "sequence-classification":
        return Classification(tokenizer.pad_token_id, multiple, smoothing, needs_mask=not hides_padding(model))
    assert prepared.answer_ids is not None
    accepted = set(inspect.signature(base_model(model).forward).parameters)
    return Answering(tokenizer.pad_token_id, multiple, smoothing, prepared.answer_ids, accepted)
