"""A checkpoint takes its place by one rename."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from launcher.files import read_json
from launcher.rundir import paths
from launcher.worker.checkpoints.manifest import FOREIGN, MANIFEST, NAME, sha256, wrong_seal
from launcher.worker.checkpoints.tensorfile import Written
from launcher.worker.runtime import disk

if TYPE_CHECKING:
    from collections.abc import Callable


ASIDE, _OLD, _BEFORE = ".tmp-", ".old-", ".before-"
_LEFT = re.compile(rf"({re.escape(ASIDE)}|{re.escape(_OLD)}|{re.escape(_BEFORE)}){NAME.pattern}")


def is_ours(path: Path, step: int) -> bool:
    """Whether a folder is a checkpoint that this launcher wrote, of the step that its name tells, and so may be removed."""
    try:
        manifest = read_json(path / MANIFEST)
        return not path.is_symlink() and wrong_seal(path, manifest) is None and bool(manifest["step"] == step)
    except (OSError, *FOREIGN):
        return False


def attempted(do: Callable[[], Any]) -> Any:
    """The result, or the disk's error; a bug of ascend-launch is raised."""
    try:
        return do()
    except OSError as error:
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except (SafetensorError, RuntimeError) as error:
        # safetensors and torch's writers turn the system's error into text of their own.
        text = str(error)
        if match := re.search(r"I/O error: (.+?)(?: \(os error \d+\))?$", text):
            return match[1]
        if any(phrase in text for phrase in ("No space left", "iostream error", "unexpected pos")):
            return text
        raise


def synced(path: Path, root: Path) -> Written:
    disk.sync(path)
    return Written(str(path.relative_to(root)), path.stat().st_size, sha256(path))


def sync_folder(path: Path) -> None:
    """Wait until the folder's own entries are on the disk."""
    disk.sync(path, os.O_DIRECTORY)


def remove(path: Path) -> None:
    """Remove a checkpoint: first its name, so that a kill in between leaves no half of it under that."""
    old = path.with_name(_OLD + path.name)
    forget(old)
    paths.make_folder(path.parent)  # which refuses one that is a link
    path.replace(old)
    forget(old)


def forget(path: Path) -> None:
    """Remove what nothing needs any more; what stays is removed another time."""
    with contextlib.suppress(OSError):
        paths.remove(path)


def put_in_place(target: Path, whole: Path) -> None:
    """Give a whole folder its name, which an older one may have. That one is removed last: killed in between, one of the
    two is there, under its name or under one that `_remove_leftovers` gives back."""
    before = target.with_name(_BEFORE + target.name)
    paths.make_folder(target.parent)  # which refuses one that is a link
    if target.exists() or target.is_symlink():
        forget(before)
        target.replace(before)
    whole.replace(target)
    sync_folder(target.parent)
    forget(before)


def remove_leftovers(folder: Path) -> None:
    """What a killed save left: half a checkpoint, and one that was to be replaced."""
    for path in [*folder.iterdir()] if folder.is_dir() and not folder.is_symlink() else []:
        if not _LEFT.fullmatch(path.name):
            continue
        named = path.with_name(path.name.removeprefix(_BEFORE))
        if path != named and not named.exists():
            path.replace(named)
        else:
            forget(path)
