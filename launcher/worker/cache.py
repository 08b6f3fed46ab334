"""What is kept between runs on this node, under keys that say what it was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from launcher import assets
from launcher.errors import LaunchError


def folder() -> Path:
    """Where it is kept: $ASCEND_LAUNCH_CACHE, else ascend-launch in the user's cache folder."""
    return assets.cache_dir()


def key(value: Any) -> str:
    """A short name for a JSON value; equal values have equal names on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


def lock(name: str) -> FileLock:
    """A lock that processes of this node share by its name.

    Raises:
        LaunchError: the cache folder cannot be made.
    """
    locks = folder() / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchError(
            f"{locks}: cannot be made: {error.strerror}", hint="set ASCEND_LAUNCH_CACHE to a writable folder"
        ) from error
    return FileLock(locks / f"{name}.lock")
