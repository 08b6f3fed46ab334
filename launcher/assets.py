"""Where shipped files are, in a checkout and in a wheel; and model configs that can be read without a network."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher import confined
from launcher.errors import LaunchError

PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """`recipes` or `accelerate_configs`: beside the package in a checkout, below it in a wheel.

    Raises:
        LaunchError: the installation holds neither.
    """
    for path in (PACKAGE / "_data" / name, PACKAGE.parent / name):
        if path.is_dir():
            return path
    raise LaunchError(
        "the shipped folder {name} is missing from {package}",
        hint="reinstall ascend-launch",
        name=name,
        package=PACKAGE,
    )


def recipes() -> list[Path]:
    """The shipped recipes, by name."""
    return sorted(folder("recipes").glob("*.yaml"))


def recipe(path: Path) -> Path:
    """The recipe file that `path` names: a file, or else the shipped recipe of that name (`yelp`, `yelp.yaml`,
    `recipes/yelp.yaml`). A name that is neither comes back as it is."""
    if path.is_file() or path.parent not in (Path(), Path("recipes")):
        return path
    match = next((p for p in recipes() if path.name in (p.stem, p.name)), None)
    return path if match is None else _from_here(match)


SHIPPED = "shipped:"
"""A path of a recipe that begins so is meant from the folder of the shipped recipes, wherever a command runs."""


def located(value: Any) -> Any:
    """`value`, a path or lists and mappings of paths, with those that begin with SHIPPED as paths on this machine."""
    if isinstance(value, str) and value.startswith(SHIPPED):
        return str(_from_here(folder("recipes") / value.removeprefix(SHIPPED)))
    if isinstance(value, list):
        return [located(item) for item in value]
    return {key: located(item) for key, item in value.items()} if isinstance(value, dict) else value


def _from_here(path: Path) -> Path:
    """Relative where it lies below the current folder, so that nodes with a checkout each say the same."""
    cwd = Path.cwd()
    return path.relative_to(cwd) if path.is_relative_to(cwd) else path


def cache_dir(env: Mapping[str, str] = os.environ) -> Path:
    """Where tokenised data and built operators are kept between runs: ASCEND_LAUNCH_CACHE, or the user's cache."""
    given = env.get("ASCEND_LAUNCH_CACHE")
    return Path(given) if given else user_cache(env) / "ascend-launch"


def user_cache(env: Mapping[str, str] = os.environ) -> Path:
    """Where programs of this user keep what they can make again.

    Raises:
        LaunchError: nothing says where that is, as in a container under a number that has no name.
    """
    try:
        return Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or Path.home()) / ".cache")
    except RuntimeError:
        raise LaunchError(
            "HOME is not set, and this user has none by name", hint="set HOME to a folder that can be written to"
        ) from None


def model_folder(name: str, revision: str | None = None, env: Mapping[str, str] = os.environ) -> Path | None:
    """Where a model's files are on this machine: the folder named, or the hub's local cache; None where they are not."""
    path = Path(name)
    if path.is_dir():
        return path
    cached = snapshot(name, revision, env)
    return cached if cached.is_dir() else None


def hub_home(env: Mapping[str, str]) -> Path:
    """huggingface_hub's folder: the cache of models, and the token."""
    return Path(env.get("HF_HOME") or user_cache(env) / "huggingface")


def hub_repository(name: str, env: Mapping[str, str]) -> Path:
    """Where huggingface_hub caches a model. A test holds this file to what that package says itself: to import it for these
    lines takes 0.2 s of each start."""
    cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or hub_home(env) / "hub"
    return Path(cache, "--".join(["models", *name.split("/")]))


def snapshot(name: str, revision: str | None, env: Mapping[str, str]) -> Path:
    """The folder of a model's files in that cache; it need not be there."""
    cache = hub_repository(name, env)
    ref = cache / "refs" / (revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else (revision or "main")
    return cache / "snapshots" / commit


def require_plain(folder: Path, named: str) -> None:
    """A model folder that can be read to its end and copied: what is in it is files, or links to the same file elsewhere,
    as people make, or to a blob of the hub's cache. `vocab.txt` that leads to a private key would be copied into every
    model that is made of it.

    Raises:
        LaunchError: something in it is not; the message names `named`.
    """
    for entry in os.scandir(folder):
        try:
            mode = entry.stat().st_mode
            target = Path(entry.path).resolve() if entry.is_symlink() else None
        except OSError:  # leads nowhere: as if it were not there
            continue
        if target is not None and not _is_expected(target, folder, entry.name):
            raise LaunchError(
                "{named}: {entry} is a link to {target}, outside of the folder",
                hint="remove it, or put the file itself there if you know it",
                named=named,
                entry=entry.name,
                target=target,
            )
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise LaunchError(
                "{named}: {entry} is {kind}, not a file",
                hint="remove it",
                named=named,
                entry=entry.name,
                kind=confined.kind(mode),
            )


def _is_expected(target: Path, folder: Path, name: str) -> bool:
    return target.name == name or target.parent.name == "blobs" or target.is_relative_to(folder.resolve())
