"""What of a recipe's labels does not go together: how many there are, their names, and what is written of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launcher.messages import Message, joined
from launcher.recipe import data_rules
from launcher.recipe.schema import Data, Model
from launcher.recipe.tasks import table as tasks
from launcher.recipe.tasks.base import PROBABILITIES
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL, VALUES, Problem


def problems(model: Model, data: Data | None, *, has_script: bool) -> Iterator[Problem]:
    """Keys below which, and what is wrong."""
    task, names = tasks.load(model.task), model.label_names
    targets = task.targets(model, data or Data())
    if targets in (ONE_LABEL, MANY_LABELS) and not has_script:
        yield from _uncounted(model, data)
    if targets == ONE_LABEL and model.num_labels == 1:
        yield ("model", "num_labels"), Message("must be greater than or equal to 2, got 1")
    if targets == ONE_LABEL and names is not None and len(names) < 2:
        text = Message("has {num_names} of the at least 2 labels to tell apart", num_names=len(names))
        yield ("model", "label_names"), text
    elif names is not None and model.num_labels not in (None, len(names)):
        text = Message(
            "{num_names} names for num_labels {num_labels}", num_names=len(names), num_labels=model.num_labels
        )
        yield ("model", "label_names"), text
    if names is not None and len(set(names)) < len(names):
        yield ("model", "label_names"), Message("the same name stands for two labels")
    if targets != MANY_LABELS and model.threshold != Model.model_fields["threshold"].default:
        yield ("model", "threshold"), Message("is for rows that have any number of labels")
    if model.problem_type is not None and not task.has_head:
        yield ("model", "problem_type"), Message("is for a classification head, and {task} has none", task=task.name)


def _uncounted(model: Model, data: Data | None) -> Iterator[Problem]:
    if model.num_labels is not None or model.label_names is not None or getattr(data, "labels", None):
        return
    if not (data is not None and data_rules.has_files(data)):  # which would say
        yield ("model",), Message("`num_labels:` is missing: say how many classes the labels have")


def of_predictions(model: Model, data: Data | None, additions: Sequence[str]) -> Iterator[str]:
    """What is wrong with what `predictions:` asks for."""
    task = tasks.load(model.task)
    if len(set(additions)) < len(additions):
        yield Message("the same is named twice")
    for name in additions:
        if not task.adds:
            yield Message("predictions.jsonl has nothing else of task {task}", task=task.name)
        elif name not in task.adds:
            yield Message(
                "{name} is none of {known} that {task} has", name=name, known=joined(task.adds), task=task.name
            )
        elif name == PROBABILITIES and task.targets(model, data or Data()) == VALUES:
            yield Message("a regression has no probabilities")
