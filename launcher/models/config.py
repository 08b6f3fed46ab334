"""A model's config.json, without a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher import confined
from launcher.assets import require_plain, snapshot
from launcher.errors import LaunchError
from launcher.messages import Message


def model_config(name: str, revision: str | None = None, env: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """A model's config.json from its folder, from the hub's local cache, or from the table of known shapes; None where
    none has it.

    Raises:
        LaunchError: `name` is a folder on this machine that holds no readable config.json.
    """
    path = Path(name)
    if path.is_dir():
        require_plain(path, f"model.name: {name}")
        file = path / "config.json"
        if not file.is_file():
            if any(path.glob("*.gguf")):
                return None
            raise LaunchError(
                "model.name: {name}: a folder without config.json",
                hint="name a folder made by save_pretrained",
                name=name,
            )
        return _config(file)
    if path.is_file():
        raise LaunchError(
            "model.name: {name}: is a file", hint="name its folder, or a hub id such as org/model", name=name
        )
    if name.startswith((".", "/", "~")):
        raise LaunchError(
            "model.name: {name}: no such folder", hint="name a folder, or a hub id such as org/model", name=name
        )
    file = snapshot(name, revision, env) / "config.json"
    return _config(file) if file.is_file() else _known(name)


def _known(name: str) -> dict[str, Any] | None:
    import yaml

    rows = yaml.safe_load((Path(__file__).with_name("known_models.yaml")).read_text(encoding="utf-8"))
    return next((dict(row["config"]) for row in rows if name in row["names"]), None)


def _config(file: Path) -> dict[str, Any]:
    try:
        value = confined.loads(confined.read(file))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else Message("not readable as JSON: {error}", error=error)
        raise LaunchError("model.name: {file}: {why}", hint="fetch the model again", file=file, why=why) from None
    if not isinstance(value, dict):
        raise LaunchError("model.name: {file}: not a model's config", hint="fetch the model again", file=file)
    return value


def hidden_size(model_config: dict[str, Any] | None) -> int | None:
    """How wide a model is, by its config.json; None where it does not say."""
    config = model_config or {}
    config = config.get("text_config") or config
    for key in ("hidden_size", "n_embd", "d_model", "dim"):
        if isinstance(config.get(key), int) and config[key] > 0:
            return int(config[key])
    return None
