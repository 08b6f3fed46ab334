"""Folders that a job writes to besides its run directory: what is wrong with one of them, and what helps."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher import assets
from launcher.errors import LaunchError
from launcher.messages import Message, joined

REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT})
"""What a disk says that is full, or that may not be written to."""
NO_TEMPORARY = "No usable temporary directory"
"""How Python says that neither TMPDIR nor /tmp nor the current folder takes a file."""
TEMPORARY_HINT = Message("set TMPDIR to a folder that can be written to")
SHARED_MEMORY_HINT = Message("start the container with --shm-size=16g or --ipc=host")
LEAST_BYTES = 1 << 20
_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


@dataclass(frozen=True)
class Place:
    """One of the folders."""

    name: str
    path: Path
    hint: str

    def fix(self, why: str) -> str:
        """What helps, by what `obstacle` said."""
        return Message("free some space there, or {hint}", hint=self.hint) if why in _FULL else self.hint


def of_job(env: Mapping[str, str]) -> tuple[Place, ...]:
    """Where a job and its libraries keep what they download and prepare, by the variables that they read, and temporary files.

    Raises:
        LaunchError: there is no home folder.
    """
    home = Path(env.get("HF_HOME") or assets.user_cache(env) / "huggingface")
    own = "set ASCEND_LAUNCH_CACHE to a folder that can be written to"
    out = [Place("ascend-launch's cache", assets.cache_dir(env), own)]
    for name, folder, variables in (
        ("datasets' cache", "datasets", ("HF_DATASETS_CACHE",)),
        ("the hub's cache", "hub", ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")),
    ):
        variable = next((v for v in variables if env.get(v)), "HF_HOME")
        path = Path(env[variable]) if variable != "HF_HOME" else home / folder
        out.append(Place(name, path, Message("set {variable} to a folder that can be written to", variable=variable)))
    return (*out, Place("temporary files", Path(env.get("TMPDIR") or "/tmp"), TEMPORARY_HINT))  # noqa: S108


def no_temporary(error: OSError) -> LaunchError:
    """The user's error where not even the current folder takes a temporary file."""
    return LaunchError(
        str(error.strerror), hint=Message("free some space in /tmp, or {temporary_hint}", temporary_hint=TEMPORARY_HINT)
    )


def obstacle(path: Path) -> str:
    """Why nothing can be written to a folder, or to where it would be made; '' where it can."""
    folder = next((p for p in (path, *path.parents) if p.is_dir()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, LEAST_BYTES)
    except OSError as error:
        return os.strerror(error.errno) if error.errno in REFUSED else ""
    return ""


def explained(error: BaseException, env: Mapping[str, str]) -> LaunchError | None:
    """The user's error where something failed because one of these places takes nothing; None where none is to blame."""
    refused = next((e for e in _chain(error) if isinstance(e, OSError)), None)
    if refused is None:
        return None
    if NO_TEMPORARY in str(refused):
        return no_temporary(refused)
    if refused.errno not in REFUSED:
        return None
    named = None if refused.filename is None else Path(os.fsdecode(refused.filename))
    unusable = [(p, why) for p in of_job(env) if _may_be(p.path, named) and (why := obstacle(p.path))]
    if not unusable:
        return None
    what = joined(
        (
            Message("{place}, {path}: cannot be written to: {why}", place=place.name, path=place.path, why=why)
            for place, why in unusable
        ),
        "; ",
    )
    return LaunchError(what, hint="; ".join(dict.fromkeys(place.fix(why) for place, why in unusable)))


def _may_be(place: Path, named: Path | None) -> bool:
    """Whether an error that names a file, or none, can be about this folder: a file in it, or a folder on the way to it."""
    return named is None or named.is_relative_to(place) or place.is_relative_to(named)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__
