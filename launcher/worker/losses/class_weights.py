"""Class weights: how much a label counts in the training. Without torch, as preparations are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from launcher.errors import LaunchError
from launcher.messages import Message, joined
from launcher.recipe.tasks.table import MANY_LABELS

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import SplitFacts


def class_weights(recipe: RecipeSpec, names: Sequence[str], train: SplitFacts | None) -> tuple[float, ...] | None:
    """The weight of each label; None where the recipe has none, or nothing is trained.

    Args:
        names: of the labels, in their order.
        train: the training rows, with the counts of their labels.

    Raises:
        LaunchError: the recipe's weights are of other labels.
    """
    given = recipe.model.class_weights
    if given is None or train is None:
        return None
    if isinstance(given, str):
        has_many_labels = recipe.task.targets(recipe.model, recipe.data) == MANY_LABELS
        return _of_presence(train) if has_many_labels else balanced(train.label_counts)
    if isinstance(given, dict):
        for name in given.keys() - set(names):
            raise _wrong(Message("{name!r} is none of the labels {names}", name=name, names=joined(names)))
        return tuple(given.get(name, 1.0) for name in names)
    if len(given) != len(names):
        raise _wrong(Message("{count} weights for {num_labels} labels", count=len(given), num_labels=len(names)))
    return tuple(given)


def balanced(counts: Sequence[int]) -> tuple[float, ...]:
    """scikit-learn's: all rows / (labels that occur x rows of the label). A label that never occurs has 1, which counts in
    label smoothing alone."""
    total, present = sum(counts), sum(map(bool, counts))
    return tuple(total / (present * count) if count else 1.0 for count in counts)


def _of_presence(train: SplitFacts) -> tuple[float, ...]:
    """Rows without the label / rows with it, so that both sides of each label count alike."""
    return tuple((train.rows - count) / count if 0 < count < train.rows else 1.0 for count in train.label_counts)


def note(weights: Sequence[float] | None, names: Sequence[str]) -> tuple[str, ...]:
    """What the weights are, for the user."""
    if weights is None:
        return ()
    shown = (f"{name} {weight:.4g}" for name, weight in zip(names, weights, strict=True))
    return (Message("class weights: {weights}", weights=", ".join(shown)),)


def _wrong(text: str) -> LaunchError:
    return LaunchError("model.class_weights: {text}", hint="give each label its weight, or balanced", text=text)
