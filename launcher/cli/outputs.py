"""Files that a command writes. One rule for all: what is there stays, unless --force is given, and a file goes into
a folder that is there."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path
from typing import Any

import click

from launcher.errors import LaunchError
from launcher.messages import Message

force_option = click.option("--force", is_flag=True, help="Overwrite files that exist [default: refuse].")


class Target(click.Path):
    """A file or folder to be made. An empty name, as an unset shell variable gives, is not the current folder."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            raise click.BadParameter("the name is empty", ctx, param)
        return super().convert(value, param, ctx)


class Name(click.ParamType):
    """A file or folder to be read, a hub id, or -: anything but nothing."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            raise click.BadParameter("the name is empty", ctx, param)
        return value


def check(path: Path, *, force: bool, can_force: bool = True) -> None:
    """Before the work that fills it: may this file be written?

    Raises:
        LaunchError: something is there, it is a folder, or the folder that it would be in is not there.
    """
    try:
        if path.is_dir():
            raise LaunchError("{path}: is a folder", hint="name a file", path=path)
        if not path.parent.is_dir():
            make = Message("make it first: mkdir -p {parent}", parent=shlex.quote(str(path.parent)))
            raise LaunchError(
                Message("{path}: there is no folder {parent}", path=path, parent=path.parent),
                hint="name another" if path.parent.exists() else make,
            )
        if (path.exists() or path.is_symlink()) and not is_stream(path) and not force:
            raise LaunchError(
                "{path}: exists already",
                hint="name another file, or add --force to overwrite it" if can_force else "name another file",
                path=path,
            )
    except OSError as error:
        raise _refused(path, error) from None


def is_stream(path: Path) -> bool:
    """Whether what is there is a pipe or a device, as /dev/null: it is written to, and never replaced."""
    if not path.exists():
        return False
    mode = path.stat().st_mode
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def write(path: Path, text: str, *, force: bool, can_force: bool = True, through_links: bool = True) -> None:
    """Write the file whole or not at all. Where it is a link, what the link names is written, or, of a name that nobody
    gave, the link is replaced.

    Raises:
        LaunchError: as `check`, or the disk refuses.
    """
    from launcher import files

    check(path, force=force, can_force=can_force)
    try:
        if through_links and is_stream(path):
            path.write_text(text, encoding="utf-8")
        else:
            files.write_text(path.resolve() if through_links else path, text)
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: OSError) -> LaunchError:
    return LaunchError(
        "{path}: cannot be written: {problem}", hint="name a writable file", path=path, problem=error.strerror
    )
