"""Where each value of a recipe comes from: defaults, `extends`, the file, the environment, the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launcher import assets
from launcher.errors import LaunchError
from launcher.messages import Message, joined
from launcher.recipe import yamlfile
from launcher.recipe.messages import keys_of
from launcher.recipe.schema import RecipeSpec

ENV_PREFIX = "ASCEND_LAUNCH_"
ENV_NOT_RECIPE = frozenset(
    {"CACHE", "NPROC", "DEVICE", "LANG", "NNODES", "NODE_RANK", "RDZV_ENDPOINT", "RUN_DIR", "SECRET"}
)
"""ASCEND_LAUNCH_* variables that are not recipe keys: the cache folder, defaults of command line options, and the run
directory that a script's ranks read."""


class Layers:
    """The merged values so far, the origin of each leaf, and the mistakes found on the way."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origin: dict[tuple[str | int, ...], str] = {}
        self.mistakes: list[str] = []

    def merge(self, values: Mapping[str, Any], origin: Mapping[tuple[str | int, ...], str]) -> None:
        _merge(self.values, values, (), self.origin)
        self.origin.update(origin)

    def where(self, path: tuple[str | int, ...]) -> str:
        """The origin of `path`, or of the nearest enclosing value that has one."""
        if path and path not in self.origin:  # `foo.bar=1` has an origin, and `foo` is what is wrong with it
            below = [origin for given, origin in self.origin.items() if given[: len(path)] == path]
            if below:
                return below[0]
        for end in range(len(path), -1, -1):
            if path[:end] in self.origin:
                return self.origin[path[:end]]
        return "recipe"

    def mistake(self, path: tuple[str | int, ...], text: str) -> None:
        dotted = ".".join(str(p) for p in path)
        where = self.where(path).removesuffix(f" {dotted}")  # `command line training.seed`: the key follows
        key = f"{dotted}: " if dotted else ""
        self.mistakes.append(Message("{where}: {key}{text}", where=where, key=key, text=text))

    def raise_if_any(self) -> None:
        if self.mistakes:
            mistakes = sorted(dict.fromkeys(self.mistakes), key=_position)
            raise LaunchError(
                joined(mistakes, "\n"),
                hint=_place(mistakes[0])
                if len(mistakes) == 1
                else Message("correct these {num_mistakes} errors", num_mistakes=len(mistakes)),
            )


def _place(mistake: str) -> str:
    """What to do about a single mistake: where it is to be corrected."""
    if mistake.startswith("command line"):
        return Message("correct that argument of the command line")
    if mistake.startswith("environment "):
        return Message("change or unset that variable")
    position = re.match(r"(.*?):(\d+): (?:([\w.]+): )?", mistake)
    if position is None:
        return Message("add it to the recipe, or as KEY=VALUE on the command line")
    if position[3] and Path(position[1]) in assets.recipes():  # installed, and not the user's to edit
        return Message("set {actual} on the command line; {actual}=null is its default", actual=position[3])
    return Message("correct line {actual} of {second_actual}", actual=position[2], second_actual=position[1])


def _position(mistake: str) -> tuple[bool, str, int]:
    """In the order of a file's lines; what comes from the environment or the command line after them."""
    position = re.match(r"(.*?):(\d+): ", mistake)
    return (position is None, position[1] if position else "", int(position[2]) if position else 0)


def _merge(into: dict[str, Any], values: Mapping[str, Any], at: tuple[str | int, ...], origin: dict[Any, str]) -> None:
    for key, value in values.items():
        path = (*at, key)
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, path, origin)
            continue
        for old in [p for p in origin if p[: len(path)] == path]:
            del origin[old]
        into[key] = _copy(value)


def _copy(value: Any) -> Any:
    # Values are shared where YAML aliases are, and layers are merged in place.
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def file_layer(layers: Layers, path: Path, seen: list[Path]) -> None:
    document = yamlfile.load(path)
    if not isinstance(document.value, dict):
        kind = "empty" if document.value is None else f"a {type(document.value).__name__}"
        raise LaunchError(
            "{path}:1: a recipe is a mapping of keys, this is {kind}",
            hint="keys are {keys_of}",
            path=path,
            kind=kind,
            keys_of=keys_of(RecipeSpec),
        )
    values = dict(document.value)
    base = values.pop("extends", None)
    if base is not None:
        line = document.lines[("extends",)]
        if not isinstance(base, str):
            raise LaunchError(
                "{path}:{line}: extends: expected a file name, got {base!r}",
                hint="name one recipe",
                path=path,
                line=line,
                base=base,
            )
        base_path = path.parent / base
        if not base_path.is_file():
            base_path = assets.recipe(Path(base))
        if base_path.resolve() in [p.resolve() for p in [*seen, path]]:
            raise LaunchError(
                Message("{path}:{line}: extends: {base} leads back to itself", path=path, line=line, base=base),
                hint=Message(
                    "name another file; `extends: {stem}` is the shipped recipe of that name", stem=base_path.stem
                )
                if base_path.stem in [shipped.stem for shipped in assets.recipes()]
                else "name another file",
            )
        if not base_path.is_file():
            raise LaunchError(
                "{path}:{line}: extends: {parent}: no such file",
                hint="name a file beside the recipe, or a shipped recipe: `ascend-launch recipes` lists them",
                path=path,
                line=line,
                parent=path.parent / base,
            )
        file_layer(layers, base_path, [*seen, path])
    layers.merge(values, {p: f"{path}:{line}" for p, line in document.lines.items() if p[:1] != ("extends",)})


def env_layer(layers: Layers, env: Mapping[str, str]) -> None:
    sections = RecipeSpec.model_fields
    for variable in sorted(v for v in env if v.startswith(ENV_PREFIX)):
        rest = variable.removeprefix(ENV_PREFIX)
        if rest in ENV_NOT_RECIPE:
            continue
        keys = [part.lower() for part in rest.split("__")]
        if keys[0] not in sections:
            layers.mistakes.append(
                Message(
                    "environment {variable}: no recipe key `{keys}`; write ASCEND_LAUNCH_<SECTION>__<KEY>",
                    variable=variable,
                    keys=".".join(keys),
                )
            )
            continue
        _set(layers, keys, env[variable], Message("environment {variable}", variable=variable))


def override_layer(layers: Layers, overrides: Iterable[str]) -> None:
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.-]*", key):
            layers.mistakes.append(
                Message("command line: {word!r} is not KEY=VALUE (as in training.learning_rate=1e-5)", word=word)
            )
            continue
        _set(layers, key.split("."), text, Message("command line {key}", key=key))


def _set(layers: Layers, keys: list[str], text: str, origin: str) -> None:
    if keys[0] == "training" and not text.strip():  # as of `training.seed=$SEED` without a SEED
        layers.mistakes.append(Message("{origin}: no value is given; null stands for the default", origin=origin))
        return
    try:
        value = yamlfile.scalar(text)
    except ValueError as error:
        layers.mistakes.append(
            Message("{origin}: {text!r} is not a YAML value ({error})", origin=origin, text=text, error=error)
        )
        return
    nested: Any = value
    for key in reversed(keys):
        nested = {key: nested}
    parent = layers.values
    for i, key in enumerate(keys[:-1]):
        if key in parent and not isinstance(parent[key], dict):
            # `data.data_files.train=F` replaces a single file by a mapping of splits.
            replaced = tuple(keys[: i + 1])
            layers.origin = {p: o for p, o in layers.origin.items() if p[: i + 1] != replaced} | {replaced: origin}
            parent[key] = {}
        parent = parent.setdefault(key, {})
    layers.merge(nested, {tuple(keys): origin})


_PATHS = (("model", "name"), ("model", "tokenizer"), ("data", "path"), ("data", "data_files"), ("data", "data_dir"))


def locate(layers: Layers) -> None:
    for section, key in _PATHS:
        values = layers.values.get(section)
        if isinstance(values, dict) and key in values:
            values[key] = assets.located(values[key])
    data = layers.values.get("data")
    for one in _sets(data) if isinstance(data, dict) else ():
        for key in ("path", "data_files", "data_dir"):
            if key in one:
                one[key] = assets.located(one[key])


def _sets(data: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The sets of `data.sets` and `data.eval`, as far as they are mappings."""
    held = data.get("eval")
    named = held.get("sets", held) if isinstance(held, dict) else {}
    listed = data.get("sets")
    several = [*(listed if isinstance(listed, list) else ()), *(named.values() if isinstance(named, dict) else ())]
    return [one for one in several if isinstance(one, dict)]
