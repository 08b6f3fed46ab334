"""What of a recipe's loss and class weights does not go together with the rest of it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.messages import Message, joined
from launcher.recipe.losses import table
from launcher.recipe.schema import Data, Loss, Model
from launcher.recipe.tasks import table as tasks
from launcher.recipe.tasks.table import Problem, Task

_SMOOTHING = "label_smoothing_factor"


def problems(loss: Loss, model: Model, data: Data, training: Mapping[str, Any]) -> Iterator[Problem]:
    """Keys below which, and what is wrong."""
    task = tasks.load(model.task)
    kind = table.of(loss.name, task.targets(model, data))
    yield from _parameters(kind, loss)
    if loss.name is not None and not _is_of(kind, task, model, data):
        text = Message("{loss} is not a loss of model.task: {task}; leave it out", loss=loss.name, task=task.name)
        yield ("loss",), text
    if training.get(_SMOOTHING) and not kind.takes_smoothing:
        yield ("training", _SMOOTHING), Message("has no effect with loss: {loss}; leave it out", loss=kind.name)
    if model.class_weights is not None:
        yield from _class_weights(kind, task, model, data)


def _is_of(kind: table.Loss, task: Task, model: Model, data: Data) -> bool:
    # A language model whose answers are labels is trained on the answers' tokens, and is asked for labels.
    is_default = kind is table.of(None, task.targets(model, data))
    return is_default or (task.targets(model, data) in kind.targets and (task.has_head or not task.has_labels))


def _parameters(kind: table.Loss, loss: Loss) -> Iterator[Problem]:
    given = loss.parameters
    for key in given:
        if key not in kind.parameters:
            close = difflib.get_close_matches(key, kind.parameters, n=1)
            text = (
                Message("unknown key; did you mean `{close}`?", close=close[0])
                if close
                else Message("{loss} has no parameter of this name", loss=kind.name)
            )
            yield ("loss", key), text
    known = {key: value for key, value in given.items() if key in kind.parameters}
    yield from ((("loss", key), text) for key, text in kind.problems(known))


def _class_weights(kind: table.Loss, task: Task, model: Model, data: Data) -> Iterator[Problem]:
    path, weights = ("model", "class_weights"), model.class_weights
    if not task.has_labels or task.targets(model, data) == tasks.VALUES:
        yield path, Message("model.task: {task} has no labels to weigh here", task=task.name)
        return
    if not kind.takes_class_weights:
        yield path, Message("has no effect with loss: {loss}; weigh labels in that function", loss=kind.name)
    count = model.num_labels or len(model.label_names or ())
    if isinstance(weights, tuple) and count and len(weights) != count:
        yield path, Message("{count} weights for {num_labels} labels", count=len(weights), num_labels=count)
    if isinstance(weights, dict) and model.label_names is not None:
        for name in weights.keys() - set(model.label_names):
            text = Message("{name!r} is none of {names}", name=name, names=joined(model.label_names))
            yield (*path, name), text
    numbers = tuple(weights.values()) if isinstance(weights, dict) else weights
    if isinstance(numbers, tuple) and not _are_weights(numbers):
        yield path, Message("weights are finite numbers from 0 on, and not all 0")


def _are_weights(weights: tuple[float, ...]) -> bool:
    return all(math.isfinite(one) and one >= 0 for one in weights) and any(weights)
