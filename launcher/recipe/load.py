"""A recipe as it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from launcher import scrub
from launcher.messages import Message
from launcher.recipe import training_rules, user_code
from launcher.recipe.checks import has_nul, validate
from launcher.recipe.layers import Layers, env_layer, file_layer, locate, override_layer
from launcher.recipe.schema import DataSet, RecipeSpec


@dataclass(frozen=True)
class Loaded:
    """A recipe together with where each of its values came from."""

    spec: RecipeSpec
    name: str
    path: Path
    origins: dict[str, str]
    """`training.learning_rate` → `recipes/yelp.yaml:21`, `command line`, `environment ASCEND_LAUNCH_…` or `default`."""
    recipe_dir: Path | None = None
    """Where `script:` lies, for a recipe that is a run directory's own; None beside the recipe."""
    pins: tuple[str, ...] = ()
    """KEY=VALUE words for what was settled when the job was planned: where links in paths led to, and labels of the data."""
    notes: tuple[str, ...] = ()
    """What the user should know of what was settled so."""


def load(
    path: Path,
    overrides: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    *,
    trains_here: bool = False,
    recipe_dir: Path | None = None,
) -> Loaded:
    """Read, merge and check a recipe: defaults, then files from the base up, then environment, then overrides.

    Args:
        path: the recipe file.
        overrides: `KEY=VALUE` words, dotted keys, YAML values.
        env: the environment to read ASCEND_LAUNCH_* from; os.environ when None.
        trains_here: look for the packages that the training needs in this environment, too.
        recipe_dir: the folder of `script:`; the recipe's own when None.

    Raises:
        LaunchError: with every mistake in it, one line each.
    """
    layers = Layers()
    file_layer(layers, path, [])
    env_layer(layers, os.environ if env is None else env)
    override_layer(layers, overrides)
    if has_nul(layers, layers.values):
        layers.raise_if_any()  # before anything looks for such a file
    _refuse_secrets(layers)
    locate(layers)
    folder = recipe_dir or path.parent
    spec = validate(layers, folder)
    for name, text in training_rules.missing_packages(spec.training) if trains_here else ():
        layers.mistake(("training", name), text)
    script = spec.script and (folder / spec.script)
    if script and not script.is_file():
        layers.mistake(("script",), Message("{script}: no such file", script=script))
    elif script and _shadows(script):
        layers.mistake(
            ("script",), Message("a file named {script} hides the library of that name; rename it", script=script.name)
        )
    layers.raise_if_any()
    return Loaded(spec, path.stem, path, _origins(spec, layers), recipe_dir, notes=_changed_code(spec, folder))


def _changed_code(spec: RecipeSpec, folder: Path) -> tuple[str, ...]:
    """A sentence for each file of the user's that is another by now than the copy in the recipe of a run."""
    return tuple(
        Message(
            "{path} is not what it was when this run began, which goes on with the copy in its recipe",
            path=one.path(folder),
        )
        for one in {one.file: one for _, one in spec.functions()}.values()
        if user_code.has_changed(one, spec.code[one.file], folder)
    )


def _refuse_secrets(layers: Layers) -> None:
    """A recipe is copied into run directories, batch scripts and manifests, and every node tells the others of it."""
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), layers.values)]
    for path, value in todo:
        if isinstance(value, str) and scrub.has_url_secret(value):
            layers.mistake(
                path,
                Message(
                    "holds a user, a password or a token in a URL, and a recipe is copied into the run "
                    "directory; leave it out, and have ~/.netrc or a variable such as HF_TOKEN tell it"
                ),
            )
        inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        todo += [((*path, key), one) for key, one in inner]


def _shadows(script: Path) -> bool:
    import sys

    # The script's folder comes first on sys.path, so `datasets.py` there would replace the library.
    libraries = {
        "torch",
        "transformers",
        "datasets",
        "evaluate",
        "accelerate",
        "deepspeed",
        "peft",
        "launcher",
        "numpy",
    }
    return script.stem in libraries or script.stem in sys.stdlib_module_names


def _origins(spec: RecipeSpec, layers: Layers) -> dict[str, str]:
    out: dict[str, str] = {}

    def visit(value: Any, path: tuple[str | int, ...]) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                visit(inner, (*path, key))
            return
        given = any(p[: len(path)] == path for p in layers.origin) and _given(layers.values, path)
        out[".".join(map(str, path))] = layers.where(path) if given else "default"

    visit(spec.model_dump(), ())
    return out


def _given(values: Any, path: tuple[str | int, ...]) -> bool:
    for part in path:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def pinned(loaded: Loaded) -> Loaded:
    """With links in paths of the model and the data followed: `latest` leads elsewhere once this job's ranks start."""
    spec = loaded.spec
    model = {key: _followed(getattr(spec.model, key)) for key in ("name", "tokenizer")}
    data = {key: _followed(getattr(spec.data, key)) for key in ("path", "data_files")}
    data["sets"] = tuple(map(_followed_set, spec.data.sets))
    if (held := spec.data.eval) is not None and held.sets is not None:
        data["eval"] = held.model_copy(update={"sets": {name: _followed_set(one) for name, one in held.sets.items()}})
    pins = tuple(
        f"{name}.{key}={json.dumps(value, ensure_ascii=False, default=_given_keys)}"
        for name, section, values in (("model", spec.model, model), ("data", spec.data, data))
        for key, value in values.items()
        if value != getattr(section, key)
    )
    if not pins:
        return loaded
    sections = {"model": spec.model.model_copy(update=model), "data": spec.data.model_copy(update=data)}
    return replace(loaded, spec=spec.model_copy(update=sections), pins=pins)


def _followed_set(one: DataSet) -> DataSet:
    return one.model_copy(update={key: _followed(getattr(one, key)) for key in ("path", "data_files")})


def _given_keys(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(exclude_defaults=True)


def _followed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _followed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_followed(inner) for inner in value]
    if not isinstance(value, str) or "\0" in value:
        return value
    path, out = Path(value), Path()
    for part in path.parts:
        out = _end_of(out / part)
    return value if out == path else str(out)


def _end_of(path: Path, depth: int = 0) -> Path:
    """Where a link to a folder beside it leads. One to an absolute path is the same for ever, and may be another on each
    node (an automounter's), unless there is a link of the other kind on its way. A file keeps its name, which says what it is.
    """
    if depth > 40 or not path.is_symlink() or not path.is_dir():
        return path
    target = path.readlink()
    if not target.is_absolute():
        return _end_of(path.parent / target, depth + 1)
    end = Path(_followed(str(target)))
    return path if end == target else end
