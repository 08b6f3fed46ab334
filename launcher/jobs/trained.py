"""Trained weights that are named on the command line: where they are, and with which recipe they were trained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launcher import assets, files
from launcher.accelerators import table as accelerators
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.models import positions
from launcher.models.config import model_config
from launcher.recipe.schema import NO_DATA, Data, Model, RecipeSpec, Strategy
from launcher.recipe.tasks import table as tasks
from launcher.rundir.paths import MODEL_NOTE, RunDir
from launcher.strategies import table as strategies

_MARKS = (
    "plan.json",
    "manifest.json",
    "config.json",
    "adapter_config.json",
    "*.safetensors",
    "pytorch_model*.bin",
    "global_step*",
    "*_states.pt",
    "*.distcp",
    "*/*.distcp",
)
"""One of these is in every folder that stands for weights, or that the rank side refuses with a better message."""

MIN_LENGTH = 8
"""The least that data.max_length may be."""
_CHECKPOINT = re.compile(r"(.*/)?checkpoint-\d+")


@dataclass(frozen=True)
class Weights:
    """What `--checkpoint` and `--model` name. Nothing has been read but small JSON files."""

    name: str
    """A folder by its absolute path, or a hub id."""
    run: RunDir | None
    """The run directory that it is or lies in."""

    def trained_by(self) -> Strategy | None:
        """The strategy that made them, where they tell."""
        if self.run is not None:
            return self.run.plan().strategy
        note = files.read_json(Path(self.name) / MODEL_NOTE)
        strategy = note.get("strategy") if isinstance(note, dict) else None
        return strategy if isinstance(strategy, str) and strategy in strategies.TABLE else None


def find(text: str, option: str) -> Weights:
    """A folder (a model, an adapter, a checkpoint, a run directory), or a hub id.

    Raises:
        LaunchError: neither; the message names `option`; '' for an argument.
    """
    path, named = Path(text).expanduser(), f"{option} {text}".strip()
    if path.is_dir():
        if not any(any(path.glob(pattern)) for pattern in _MARKS):
            latest = path / "latest"
            hint = (
                Message("did you mean {latest}?", latest=latest)
                if latest.is_dir()
                else Message("name a run directory, a checkpoint or a model folder")
            )
            raise LaunchError(Message("{named}: is not a run directory and holds no weights", named=named), hint=hint)
        weights = Weights(str(path.resolve()), _run_of(path.resolve()))
        # What lies in a run directory beside its weights is not read as a model.
        for folder in [*_inner(weights.run)] if weights.run else [path]:
            assets.require_plain(folder, str(folder) if weights.run else named)
        return weights
    if path.exists():
        raise LaunchError("{named}: is a file", hint="name its folder", named=named)
    is_id = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", text)
    # `runs/yelp` beside a folder `runs` is a path with a slip in it.
    if not is_id or ("/" in text and path.parent.is_dir()) or _CHECKPOINT.fullmatch(text):
        raise LaunchError(
            "{named}: no such folder",
            hint="name a run directory, a checkpoint, a model folder or a hub id",
            named=named,
        )
    return Weights(text, None)


def _inner(run: RunDir) -> Iterator[Path]:
    """The folders with weights of a run directory.

    Raises:
        LaunchError: one of them is a link; a launch makes none.
    """
    for folder in (run.model_dir, run.checkpoints):  # each checkpoint is looked at when it is chosen
        if folder.is_symlink():
            raise LaunchError(
                "{folder}: is a link to {value}",
                hint="name that folder itself if you know it",
                folder=folder,
                value=folder.resolve(),
            )
        if folder.is_dir():
            yield folder


def _run_of(path: Path) -> RunDir | None:
    # runs/R, runs/R/model or runs/R/checkpoints/checkpoint-N
    return next((run for run in map(RunDir, (path, *path.parents[:2])) if run.plan_path.is_file()), None)


def code_notes(weights: Weights, recipe: RecipeSpec) -> tuple[str, ...]:
    """A sentence for each file of the user's that the run which made the weights had with another text."""
    before = weights.run.plan().recipe.code if weights.run is not None else {}
    return tuple(
        Message(
            "{file} is not as these weights were trained with it; {recipe} has it as it was",
            file=file,
            recipe=weights.run.recipe_path if weights.run is not None else "",
        )
        for file, text in recipe.code.items()
        if file in before and before[file] != text
    )


def recipe_of(weights: Weights, unknown: str = tasks.DEFAULT) -> RecipeSpec:
    """How texts become rows for these weights: the recipe they were trained with, as far as it is known.

    From the run directory, from the note that a training leaves beside its model, or from config.json, which says
    enough for a classification head, and of a causal LM that it writes. Where none of them is here, as of a hub id, the task is
    `unknown`.

    Raises:
        LaunchError: of a task that needs more than that.
    """
    if weights.run is not None:
        recipe = weights.run.plan().recipe
        data = files.read_json(weights.run.data_path)
        label_names = data.get("label_names") if isinstance(data, dict) else None
        names = (
            tuple(map(str, label_names)) if label_names and isinstance(label_names, list) else recipe.model.label_names
        )
        model = recipe.model.model_copy(update={"label_names": names})
        return _with_saved_template(recipe.model_copy(update={"model": model}))
    folder = Path(weights.name)
    note = files.read_json(folder / MODEL_NOTE)
    if isinstance(note, dict) and "recipe" in note:
        return _with_saved_template(_noted(weights, note["recipe"]))
    config = files.read_json(folder / "config.json") if folder.is_dir() else model_config(weights.name)
    named = config.get("architectures") if isinstance(config, dict) else None
    architectures = named if isinstance(named, list) else []
    task = tasks.of_architectures(architectures) or tasks.of_adapter(files.read_json(folder / "adapter_config.json"))
    if task is not None and task.needs_recipe:
        raise LaunchError(
            "{weights}: {reason}",
            reason=task.needs_recipe,
            hint="give the recipe it was trained with: --recipe FILE",
            weights=weights.name,
        )
    # Of a hub id that is not in the cache, the config is read on the rank side, once it is here.
    data = Data(path=NO_DATA)
    model = Model(name=weights.name, task=unknown if task is None else task.name)
    table = positions.positions(config) if isinstance(config, dict) else None
    if table is not None:  # texts are cut where the model's table of positions ends, on cards at a multiple of 16
        padding = accelerators.load(accelerators.ASSUMED).pads_to
        most = max(MIN_LENGTH, table[0] // padding * padding)
        data = data.model_copy(update={"max_length": min(data.max_length, most)})
    return RecipeSpec(model=model, data=data)


def _with_saved_template(recipe: RecipeSpec) -> RecipeSpec:
    """A training saves the chat template with the tokenizer; the file that it came from may be gone."""
    if getattr(recipe.data, "chat_template", None) is None:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"chat_template": None})})


def _noted(weights: Weights, recipe: dict[str, Any]) -> RecipeSpec:
    try:
        return RecipeSpec.model_validate_json(json.dumps(recipe))
    except ValidationError as error:
        first = error.errors()[0]
        raise LaunchError(
            "{weights}/{model_note}: {loc}: {problem}",
            hint="it was written by another version; give the recipe with --recipe FILE",
            weights=weights.name,
            model_note=MODEL_NOTE,
            loc=".".join(map(str, first["loc"])),
            problem=first["msg"],
        ) from None
