"""Files below a folder that may have come from somebody else. No link in it leads a write, a removal or a copy out of it,
and nothing there can make a reader wait for ever or fill its memory.

`root` is the folder's own path, which may be reached by links; what lies below it may not be one. Every function opens
each folder on the way without following links, and works relative to what it opened, so that nothing can be exchanged in
between.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.messages import Message

MAX_BYTES = 64 << 20
"""Of a JSON file of a run that is read at once. The largest are metrics of hundreds of classes."""
MAX_VALUES = 4_000_000
"""Of one JSON file: an empty list is 3 bytes of a file and 64 of memory."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: Message("a named pipe"),
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotPlainError(OSError):
    """Something else stands where a file or a folder of a run belongs; `strerror` says what."""

    def __init__(self, path: Path | str, what: str) -> None:
        super().__init__(errno.EINVAL, what, str(path))


def kind(mode: int) -> str:
    """What a file's mode says it is: '' for a plain file, else `a link`, `a named pipe` and so on."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), Message("no plain file"))


# -- reading -------------------------------------------------------------------------------------------------------


def open_read(path: Path, dir_fd: int | None = None) -> int:
    """A file descriptor of a plain file; a link to one is followed, a pipe or a device is not waited for.

    Raises:
        OSError: it cannot be opened; NotPlainError where it is something else.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dir_fd)
    return _plain(handle, path)


def read(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """All of a plain file that is not larger than that.

    Raises:
        OSError: as `open_read`; NotPlainError where it is larger.
    """
    with os.fdopen(open_read(path), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise NotPlainError(path, Message("is larger than {max_bytes} MiB", max_bytes=max_bytes >> 20))
    return data


def loads(data: bytes) -> Any:
    """JSON of at most MAX_VALUES values; NaN and infinities, which are none, are null.

    Raises:
        ValueError: it is not JSON, holds more values, or is nested too deeply to be read.
    """
    if sum(data.count(c) for c in (b",", b"[", b"{")) > MAX_VALUES:
        raise ValueError(Message("more than {max_values:,} values", max_values=MAX_VALUES))
    try:
        return json.loads(data, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError(Message("nested too deeply")) from None


# -- folders and files of a run ------------------------------------------------------------------------------------


@contextlib.contextmanager
def folder(path: Path, root: Path, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `path`, at or below `root`, reached without following a link below `root`.

    Raises:
        OSError: there is none and `make` is not set; NotPlainError where a link or a file is in its place.
    """
    if make:
        root.mkdir(parents=True, exist_ok=True)
    handle, place = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), root
    try:
        for part in path.relative_to(root).parts:
            place /= part
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
            below = _step(part, handle, place)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _step(name: str, dir_fd: int, place: Path) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _in_the_way(name, dir_fd, place, "a folder") from None
        error.filename = str(place)
        raise


def make_folder(path: Path, root: Path) -> None:
    """Make `path` and the folders between, where they are not there.

    Raises:
        OSError: as `folder`.
    """
    with folder(path, root, make=True):
        pass


def open_write(path: Path, root: Path, flags: int = os.O_TRUNC) -> int:
    """A descriptor to write a plain file with, made where it is not there; its mode is the umask's. `flags`: O_TRUNC,
    O_APPEND or none of them.

    Raises:
        OSError: it cannot be opened; NotPlainError where it is a link, a pipe or a device.
    """
    with folder(path.parent, root, make=True) as inside:
        how = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (flags & ~os.O_TRUNC)
        try:
            handle = os.open(path.name, how, 0o666, dir_fd=inside)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise _in_the_way(path.name, inside, path, "a file") from None
            error.filename = str(path)
            raise
    _plain(handle, path)
    if has_other_names(os.fstat(handle)):
        os.close(handle)
        raise NotPlainError(path, OTHER_NAMES)
    if flags & os.O_TRUNC:
        os.ftruncate(handle, 0)
    return handle


OTHER_NAMES = Message("is a hard link to a file that has other names too")


def has_other_names(status: os.stat_result) -> bool:
    """Whether a plain file stands in another place as well, where a write to it would show."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1


def write_text(path: Path, text: str, root: Path) -> None:
    """Write a file whole or not at all: a reader never sees half of it. A link of its name is replaced, not followed.

    Raises:
        OSError: the disk refuses, or as `folder`.
    """
    with folder(path.parent, root, make=True) as inside:
        temporary = f".{path.name}.{os.urandom(4).hex()}"
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=inside)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path.name, src_dir_fd=inside, dst_dir_fd=inside)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=inside)
                raise
        except OSError as error:
            error.filename, error.filename2 = str(path), None  # a full disk names none
            raise


def remove(path: Path, root: Path) -> None:
    """Remove a file, a link itself, or a folder with all in it; what does not exist is no error.

    Raises:
        OSError: something cannot be removed, or as `folder`.
    """
    try:
        with folder(path.parent, root) as inside:
            if stat.S_ISDIR(os.stat(path.name, dir_fd=inside, follow_symlinks=False).st_mode):
                import shutil  # 4 ms, which --help has no use for

                # rmtree goes by descriptors itself, from the folder on that it is given.
                shutil.rmtree(f"/proc/self/fd/{inside}/{path.name}")
            else:
                os.unlink(path.name, dir_fd=inside)
    except FileNotFoundError:
        return


def _plain(handle: int, path: Path) -> int:
    mode = os.fstat(handle).st_mode
    actual = kind(mode)
    if actual:
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise NotPlainError(path, Message("is {actual}, not a file", actual=actual))
    os.set_blocking(handle, True)
    return handle


def _in_the_way(name: str, dir_fd: int, place: Path, wanted: str) -> OSError:
    actual = kind(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode) or "a file"
    return NotPlainError(place, Message("is {actual}, not {wanted}", actual=actual, wanted=wanted))
