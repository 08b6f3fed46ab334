"""What is kept between runs on this node, under keys that say what it was made from.

An entry is a folder with a record, contents.json, of every file's size and SHA-256. Both are compared whenever a launch
opens it, which takes a second a gigabyte and core; an entry that differs is made again. It gets its name only once all of
it is on the disk.

What is made here has the permissions of the cache folder itself, so that a folder that a group or everybody may write
to is a cache that they share.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from launcher import assets
from launcher.errors import LaunchError
from launcher.files import read_json, write_json
from launcher.messages import Message
from launcher.worker.runtime import disk

FORMAT = 2
"""Raised when what is stored changes, so that an older cache is not read."""
RECORD = "contents.json"
_PARTIAL = ".partial"
_HINT = Message("set ASCEND_LAUNCH_CACHE to a folder that you may write to")


@dataclass(frozen=True)
class Kept:
    """An entry that is whole."""

    path: Path
    facts: Any
    """What `make` returned when it was made."""
    notes: tuple[str, ...] = ()
    """What was wrong with it before, where it had to be made again."""


def folder() -> Path:
    """Where it is kept: $ASCEND_LAUNCH_CACHE, else ascend-launch in the user's cache folder."""
    return assets.cache_dir()


def key(value: Any) -> str:
    """A short name for a JSON value; equal values have equal names on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


def kept(kind: str, name: str, make: Callable[[Path], Any]) -> Kept:
    """The entry of this kind and name, made now unless it is there and whole.

    Args:
        kind: a folder of the cache, such as tokens.
        name: a `key` of everything that it depends on.
        make: writes its files into an empty folder, and returns facts about it that JSON can hold.

    Raises:
        LaunchError: the cache cannot be written to.
    """
    target = folder() / kind / name
    reason, facts = _compared(target)
    if reason is None:
        return Kept(target, facts)
    with lock(f"{kind}-{name}"):
        reason, facts = _compared(target)  # another process may have made it while this one waited
        if reason is None:
            return Kept(target, facts)
        was_there = target.exists()
        with _writing(target):
            facts = _made(target, make)
        return Kept(
            target,
            facts,
            (Message("{target} was damaged ({reason}), so it was made again", target=target, reason=reason),)
            if was_there
            else (),
        )


def is_whole(path: Path) -> bool:
    """Whether an entry is as it was written."""
    return _compared(path)[0] is None


@contextmanager
def lock(name: str) -> Iterator[None]:
    """A lock that processes of this node share by its name.

    Raises:
        LaunchError: the cache cannot be written to.
    """
    path = folder() / "locks" / f"{name}.lock"
    with _writing(path):
        _make_folder(path.parent)
        held = _lock(path)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _lock(path: Path) -> FileLock:
    if not path.exists():
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
            path.chmod(0o600 | (_permissions() & 0o066))
    return FileLock(path)


def _made(target: Path, make: Callable[[Path], Any]) -> Any:
    """Make an entry beside its place, and move it there once it is on the disk. Its lock is held."""
    _make_folder(target.parent)
    _remove_leftovers(target.parent, target.name)
    partial = target.with_name(target.name + _PARTIAL)
    _make_folder(partial)
    try:
        with _open_umask():
            facts = make(partial)
        _open_to_others(partial)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        with ThreadPoolExecutor(_threads()) as pool:
            rows = list(pool.map(_on_disk, files))
        record = {
            "format": FORMAT,
            "files": {str(p.relative_to(partial)): row for p, row in zip(files, rows, strict=True)},
            "facts": facts,
        }
        write_json(partial / RECORD, record | {"digest": _digest(record)})
        _open_to_others(partial)
        for path in [partial, *(p for p in partial.rglob("*") if p.is_dir())]:
            disk.sync(path)
        if target.exists():
            shutil.rmtree(target)
        partial.replace(target)
        disk.sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def _remove_leftovers(kinds: Path, own: str) -> None:
    """Remove what killed preparations left. A preparation that is alive holds the lock of its entry."""
    for path in kinds.glob(f"*{_PARTIAL}"):
        name = path.name.removesuffix(_PARTIAL)
        with suppress(Timeout, OSError):
            if name == own:
                shutil.rmtree(path)
                continue
            with _lock(folder() / "locks" / f"{kinds.name}-{name}.lock").acquire(timeout=0):
                shutil.rmtree(path)


def _on_disk(path: Path) -> dict[str, Any]:
    """A file's size and SHA-256, after its bytes are on the disk."""
    disk.sync(path)
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _compared(path: Path) -> tuple[str | None, Any]:
    """What is not as it was written, or None; and the facts."""
    try:
        record = read_json(path / RECORD)
        if record is None:
            return (
                Message("{record} is not JSON", record=RECORD)
                if (path / RECORD).exists()
                else Message("{record} is missing", record=RECORD)
            ), None
        if record["digest"] != _digest({k: v for k, v in record.items() if k != "digest"}):
            return Message("{record} was changed", record=RECORD), None
        wrong = next(filter(None, (_wrong_size(path / name, row) for name, row in record["files"].items())), None)
        if wrong is None:
            with ThreadPoolExecutor(_threads()) as pool:
                digests = list(pool.map(lambda name: _sha256(path / name), record["files"]))
            rows = zip(record["files"].items(), digests, strict=True)
            wrong = next(
                (
                    Message("{name} has other bytes", name=name)
                    for (name, row), digest in rows
                    if digest != row["sha256"]
                ),
                None,
            )
        return wrong, record["facts"]
    except OSError as error:
        return Message(
            "{filename} cannot be read: {problem}", filename=Path(error.filename or path).name, problem=error.strerror
        ), None
    except (KeyError, TypeError, AttributeError):
        return Message("{record} was written by something else", record=RECORD), None


def _wrong_size(path: Path, row: dict[str, Any]) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return Message("{path} is missing", path=path.name)
    return (
        Message("{path} has {size} bytes of {row_size}", path=path.name, size=size, row_size=row["size"])
        if size != row["size"]
        else None
    )


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return disk.sha256(file)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _permissions() -> int:
    """The cache folder's own: who may read there, and who may write."""
    return folder().stat().st_mode


def _make_folder(path: Path) -> None:
    """Make a folder of the cache, with the permissions of the cache folder but for its sticky bit."""
    folder().mkdir(parents=True, exist_ok=True)
    for one in [*reversed(path.parents), path]:
        if one.is_relative_to(folder()) and not one.exists():
            with suppress(FileExistsError):
                one.mkdir()
                one.chmod(_permissions() & 0o2777)


@contextmanager
def _open_umask() -> Iterator[None]:
    """Of a preparation, so that another user of the cache can remove what it leaves when it is killed."""
    before = os.umask(0o777 & ~_permissions())
    try:
        yield
    finally:
        os.umask(before)


def _open_to_others(entry: Path) -> None:
    """Let whoever may read the cache read this entry, and whoever may write there remove it; some libraries write files
    that are their owner's alone."""
    permissions = _permissions()
    for path in [entry, *entry.rglob("*")]:
        path.chmod(permissions & 0o2777 if path.is_dir() else 0o600 | (permissions & 0o044))


_CANNOT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST})


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise LaunchError(
            Message(
                "the cache cannot be written to: {filename}: {problem}",
                filename=error.filename or path,
                problem=error.strerror,
            ),
            hint=Message("free some space there, or {hint}", hint=_HINT) if full else _HINT,
        ) from error
