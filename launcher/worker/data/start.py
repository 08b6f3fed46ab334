"""The weights that a job starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.messages import Message
from launcher.worker.models import load
from launcher.worker.models import tokenizer as tokenizers
from launcher.worker.models.folder import load_config, locate, with_weights
from launcher.worker.tasks import table
from launcher.worker.weights import trained as trained_weights
from launcher.worker.weights.trained import Trained

if TYPE_CHECKING:
    from launcher.planning.plan import Plan


@dataclass(frozen=True)
class Start:
    """The model that a run begins with, on this node, and its tokenizer."""

    trained: Trained | None
    """None where a training begins: with the recipe's model."""
    folder: Path
    """Of the whole model; of the one below where `trained` is an adapter. It may have no weights yet."""
    tokenizer_folder: Path
    tokenizer: Any
    label_names: tuple[str, ...] | None
    """Where the recipe or the weights have them."""
    notes: tuple[str, ...]


def find_start(plan: Plan) -> Start:
    """The first stage: find the model and its tokenizer, and check that they fit the recipe.

    Raises:
        LaunchError: they are not on this machine and cannot be fetched, or do not fit.
    """
    recipe = plan.recipe
    trained = trained_weights.trained(recipe, plan.use.weights, seed=_seed(plan)) if plan.use is not None else None
    folder = trained.model if trained else locate(recipe)
    tokenizer_folder = tokenizers.tokenizer_folder(recipe, trained.tokenizer if trained else folder)
    notes = [*(trained.notes if trained else ()), *load.look(recipe, plan.device, folder, is_trained=bool(trained))]
    tokenizer = tokenizers.load_tokenizer(recipe, tokenizer_folder)
    config = load_config(recipe, folder)
    names = recipe.model.label_names
    if trained is not None:
        table.check_labels(recipe, config, trained.folder, has_head=trained.base is None)
        names = trained_weights.label_names(recipe, trained, config)
    notes += tokenizers.notes(recipe, tokenizer, config)
    return Start(trained, folder, tokenizer_folder, tokenizer, names, tuple(notes))


def model_with_weights(plan: Plan, start: Start) -> tuple[Path, bool, list[str]]:
    """The folder of the weights, made now where the model has none; whether they are random; and what to say of that."""
    if start.trained is not None:
        return start.folder, False, []
    notes: list[str] = []
    path, is_random = with_weights(plan.recipe, start.folder, seed=_seed(plan), notes=notes)
    if is_random:
        notes.append(
            Message(
                "{folder} has no weights: training starts from random ones, made from its config", folder=start.folder
            )
        )
    return path, is_random, notes


def _seed(plan: Plan) -> int:
    return plan.training_arguments.get("seed", 42)
