"""Files written whole or not at all, and JSON as both sides of the run directory read it."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

from launcher import confined, scrub
from launcher.confined import NotPlainError

FOLDERS = re.compile(
    r"checkpoints|model|chunks|nodes|plog|tensorboard|swanlab|wandb|(node|attempt)_[0-9]+"
    r"|(\.(tmp|old|before)-)?(checkpoint-[0-9]+|model)"
)
"""The names that a launch writes to in a run directory, at any depth."""


def root_of(folder: Path) -> Path:
    """What a folder that we write belongs to as a whole: the run directory, for a checkpoint. Known by the names alone, since
    what is in there may come from somebody else."""
    root = folder
    for _ in range(3):  # node_1/checkpoints/checkpoint-5
        if not FOLDERS.fullmatch(root.name) or root.parent == root:
            break
        root = root.parent
    return root


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reader never sees half of it.

    Raises:
        OSError: it cannot be written; NotPlainError where a link would lead out of the run directory.
    """
    confined.write_text(path, text, root_of(path.parent))


def json_text(value: Any, **options: Any) -> str:
    """JSON as the standard has it, non-ASCII text as it is: NaN and infinities, which it does not know, become null.

    Args:
        value: what json.dumps takes.
        options: of json.dumps.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_without_nan(value), ensure_ascii=False, allow_nan=False, **options)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_by_umask(folder: Path) -> None:
    """Give the files that a library left to their owner alone, as safetensors does, the mode that any new file there gets."""
    probe = folder / f".mode-{secrets.token_hex(4)}"
    probe.touch(0o666, exist_ok=False)
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if not path.is_symlink() and path.stat().st_mode == stat.S_IFREG | 0o600:
            path.chmod(stat.S_IMODE(mode))


def write_json(path: Path, value: Any) -> None:
    """Atomic, indented, keys in the order given, secrets hidden; see `json_text`."""
    write_text(path, json_text(scrub.value(value), indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The file's value, or None where there is none or it is not JSON, or more than any file of a run holds. NaN, which older
    versions wrote, is null."""
    try:
        return confined.loads(confined.read(path))
    except (FileNotFoundError, NotPlainError, ValueError):
        return None


def tail(path: Path, num_lines: int = 30) -> str:
    """The last lines of a log, '' where there is none."""
    try:
        with os.fdopen(confined.open_read(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-num_lines:])
    except OSError:
        return ""
