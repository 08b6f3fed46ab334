"""Trained weights that are named on the command line, as folders on this node: found and checked before any rank starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import __version__, files
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.schema import Data, Parallel, RecipeSpec
from launcher.recipe.tasks import table as tasks
from launcher.rundir.paths import MODEL_NOTE, RunDir
from launcher.worker.checkpoints.manifest import MANIFEST, PassedOver, changed, check, newest_whole, step_of
from launcher.worker.models import hub
from launcher.worker.models.folder import check_folder, locate, with_weights
from launcher.worker.tasks import table

if TYPE_CHECKING:
    from launcher.planning.plan import Plan


ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Trained:
    """Weights on this node."""

    folder: Path
    """Of a whole model in Hugging Face format, or of an adapter."""
    base: Path | None
    """An adapter's model; None where `folder` is whole."""
    step: int | None = None
    """Of a checkpoint of ascend-launch."""
    notes: tuple[str, ...] = ()
    """What the user should know about them."""

    @property
    def model(self) -> Path:
        return self.base or self.folder

    def facts(self) -> dict[str, Any]:
        """For metrics.json."""
        return {"path": str(self.folder), **({} if self.step is None else {"step": self.step})}

    @property
    def tokenizer(self) -> Path:
        """The folder whose tokenizer they were trained with."""
        return self.folder if (self.folder / "tokenizer_config.json").is_file() else self.model


def trained(recipe: RecipeSpec, name: str, *, seed: int) -> Trained:
    """What `name` stands for: a folder of weights, one of our checkpoints, a run directory, or a hub id.

    Of a run directory the final model is taken where the run is finished, else its newest whole checkpoint.

    Every byte of a checkpoint, and of a finished model, is compared with its manifest.

    Raises:
        LaunchError: nothing of the kind, damaged, or without weights.
    """
    folder, step, notes = _folder(recipe, name)
    if (folder / ADAPTER).is_file():
        return Trained(folder, _base(recipe, folder, seed=seed), step, notes)
    check_folder(folder)
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise LaunchError("{folder}: holds no weights", hint="name a folder with *.safetensors", folder=folder)
    return Trained(folder, None, step, notes)


def _folder(recipe: RecipeSpec, name: str) -> tuple[Path, int | None, tuple[str, ...]]:
    """The folder, the step of a checkpoint of ascend-launch, and what the user should know about the choice."""
    path = Path(name)
    if not path.is_absolute():
        return hub.snapshot(name, None, recipe.model.hub), None, ()
    run = RunDir(path)
    if run.plan_path.is_file():
        if not run.metrics_path.is_file() or not run.model_dir.is_dir():
            return _newest(run)
        path = run.model_dir
    if step_of(path) >= 0 and (path / MANIFEST).is_file():
        return *whole(path), ()
    if not _has_manifest(path):
        return path, None, _unverified(path)
    if reason := changed(path):
        hint = Message(
            "name a checkpoint of that run; if you changed the folder yourself, remove its {manifest}",
            manifest=MANIFEST,
        )
        raise LaunchError(f"{path}: {reason}", hint=hint)
    return path, None, ()


def _has_manifest(folder: Path) -> bool:
    """Whether there is one of ascend-launch; other programs have files of that name."""
    path = folder / MANIFEST
    if not path.is_file():
        return False
    manifest = files.read_json(path)
    return manifest is None or (isinstance(manifest, dict) and "launcher" in manifest)


def _unverified(folder: Path) -> tuple[str, ...]:
    """Of a folder without a manifest: whether it is a run's finished model, which has one."""
    run = RunDir(folder.parent)
    if folder != run.model_dir or not run.plan_path.is_file():
        return ()
    return (
        Message(
            "{folder} has no {manifest}, so nothing tells whether it is as it was written",
            folder=folder,
            manifest=MANIFEST,
        ),
    )


def _newest(run: RunDir) -> tuple[Path, int, tuple[str, ...]]:
    checkpoint, passed = newest_whole(run.checkpoints, for_resuming=False)
    if checkpoint is None:
        because = "".join(f"; {one.path.name} {one.reason}" for one in passed)
        raise LaunchError(
            "{path}: the run is not finished and has no whole checkpoint{because}",
            hint="finish it: launch its recipe.yaml with --run-dir",
            exit_code=2,
            path=run.path,
            because=because,
        )
    return (
        checkpoint.path,
        checkpoint.step,
        tuple(Message("passed over {path}: {reason}", path=one.path.name, reason=one.reason) for one in passed),
    )


def whole(path: Path) -> tuple[Path, int]:
    """A checkpoint of ascend-launch and its step.

    Raises:
        LaunchError: it is damaged.
    """
    step = step_of(path)
    checkpoint = check(path, step, for_resuming=False)
    if isinstance(checkpoint, PassedOver):
        raise LaunchError(
            "{path}: {reason}", hint="name another checkpoint of that run", path=path, reason=checkpoint.reason
        )
    return checkpoint.path, checkpoint.step


def adapter_settings(folder: Path) -> dict[str, Any]:
    """An adapter's adapter_config.json.

    Raises:
        LaunchError: it is none that peft wrote.
    """
    settings = files.read_json(folder / ADAPTER)
    if not isinstance(settings, dict) or not isinstance(settings.get("base_model_name_or_path"), str | None):
        raise LaunchError(
            "{folder}: is not an adapter's config",
            hint="name a folder that peft or a training wrote",
            folder=folder / ADAPTER,
        )
    return settings


def _base(recipe: RecipeSpec, adapter: Path, *, seed: int) -> Path:
    """The model that an adapter was trained on: the one it names if that is here, else the recipe's."""
    named = adapter_settings(adapter).get("base_model_name_or_path") or ""
    if named and Path(named).is_dir():
        return Path(named)
    if named and not named.startswith(("/", ".", "~")) and recipe.model.name == str(adapter):
        return hub.snapshot(named, None, recipe.model.hub)
    if recipe.model.name == str(adapter):
        raise LaunchError(
            "{adapter}: its model {named!r} is not on this machine",
            hint="put its path into adapter_config.json as base_model_name_or_path, or give --recipe",
            adapter=adapter,
            named=named,
        )
    folder, _ = with_weights(recipe, locate(recipe), seed=seed)
    return folder


def with_labels(recipe: RecipeSpec, config: Any, trained: Trained) -> RecipeSpec:
    """The recipe with the label names that the weights' own config tells, where it has none.

    Raises:
        LaunchError: nothing tells them, or the recipe has another number of labels than the weights.
    """
    if not recipe.task.has_head or recipe.model.num_labels or recipe.model.label_names:
        if trained.base is None:
            table.check_labels(recipe, config, trained.folder, has_head=True)
        return recipe
    if trained.base is not None:
        raise LaunchError(
            "{folder}: an adapter, and nothing beside it says how many labels it has",
            hint="give the recipe it was trained with: --recipe FILE",
            folder=trained.folder,
        )
    heads = [name for name in config.architectures or [] if name.endswith(recipe.task.architecture)]
    if not heads:
        raise LaunchError(
            "{folder}: is a {architectures}, which gives no labels",
            hint=_hint_of(config),
            folder=trained.folder,
            architectures=" ".join(config.architectures or ["model"]),
        )
    names = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"label_names": names})})


def _hint_of(config: Any) -> str:
    """What to do with a model that gives no labels."""
    task = tasks.of_architectures(config.architectures or ())
    if task is not None and task.writes:  # a hub id, whose config was not here when the command began
        return Message("it writes text: give the command again, now that its config is here")
    return Message("name a model for sequence classification, or give the recipe with --recipe FILE")


def label_names(recipe: RecipeSpec, weights: Trained, config: Any) -> tuple[str, ...] | None:
    """The names of the labels in the order that the weights number them in; the recipe's where nothing tells.

    Raises:
        LaunchError: the recipe has the same names in another order.
    """
    beside = files.read_json(weights.folder / MODEL_NOTE)
    given = recipe.model.label_names
    try:
        known = tuple(map(str, beside["recipe"]["model"]["label_names"]))
    except (TypeError, KeyError):
        is_head = recipe.task.has_head and any(n.endswith(recipe.task.architecture) for n in config.architectures or [])
        named = tuple(str(name) for _, name in sorted((config.id2label or {}).items())) if is_head else ()
        known = () if all(re.fullmatch(r"LABEL_\d+", name) for name in named) or weights.base is not None else named
    if given is not None and given != known and set(given) == set(known):
        raise LaunchError(
            "model.label_names has the labels in another order than {folder}",
            hint="write them as {known}, or leave model.label_names out",
            folder=weights.folder,
            known=", ".join(known),
        )
    return given or known or None


def note(plan: Plan, label_names: Sequence[str]) -> dict[str, Any]:
    """What is left beside weights (rundir.MODEL_NOTE), so that the folder alone tells how texts become its input."""
    return note_of(plan.recipe, label_names, plan.strategy, plan.precision)


def note_of(
    recipe: RecipeSpec, label_names: Sequence[str], strategy: str | None, precision: str | None
) -> dict[str, Any]:
    """The same for weights whose plan is not at hand."""
    model, data = recipe.model, recipe.data
    kept = RecipeSpec(
        model=model.model_copy(
            update={
                "label_names": tuple(label_names) or None,
                "gguf_file": None,
                "tokenizer": None,
                "class_weights": None,
            }
        ),
        data=Data(
            path=data.path,
            text=data.text,
            max_length=data.max_length,
            prompt=data.prompt,
            system=data.system,
            answers=data.answers,
            **(data.model_extra or {}),
        ),
        parallel=Parallel(precision=recipe.parallel.precision),
    )
    shown = kept.model_dump(mode="json", exclude_defaults=True)
    return {"launcher": __version__, "strategy": strategy, "precision": precision, "recipe": shown}
