"""YAML text to plain values, with the line of every value. Guards come first: size, depth, aliases, duplicate keys."""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher import assets
from launcher.errors import LaunchError
from launcher.messages import Message

MAX_BYTES = 1 << 20
PIPE_S = 10.0
"""How long the first byte of a pipe is waited for."""
MAX_DEPTH = 40
# Nested aliases make a file of a few hundred bytes grow to gigabytes when it is walked, so what counts
# is the number of values after every alias is followed.
MAX_VALUES = 20_000

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader whose floats are YAML 1.2's: `1e-5` is a number, not the text that YAML 1.1 takes it for."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Document:
    """A parsed file: its value, and the 1-based line of each value by its path of keys and indices."""

    value: Any
    lines: dict[KeyPath, int]


def scalar(text: str) -> Any:
    """The value that `text` would have in a recipe: `8` is an int, `[a, b]` a list, `null` None.

    Raises:
        ValueError: `text` is not YAML.
    """
    try:
        return _walk(_compose(text), {}, (), [0])
    except (yaml.YAMLError, _RefusedError) as error:
        raise ValueError(str(error).splitlines()[0]) from None


def load(path: Path, kind: str = "recipe") -> Document:
    """Read one YAML file; `kind` is what messages call it.

    Raises:
        LaunchError: the file is missing, too large, not UTF-8, not YAML, or holds duplicate keys, with file:line.
    """
    try:
        with os.fdopen(_opened(path), "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise LaunchError(Message("{path}: no such file", path=path), hint=_nearest(path, kind)) from None
    except OSError as error:
        raise LaunchError(
            "{path}: cannot be read: {problem}",
            hint="name a readable {kind} file",
            path=path,
            problem=error.strerror,
            kind=kind,
        ) from None
    if len(raw) > MAX_BYTES:
        raise LaunchError(
            "{path}: more than {max_bytes} bytes is not a {kind} file",
            hint="name a {kind} file",
            path=path,
            max_bytes=MAX_BYTES,
            kind=kind,
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LaunchError(
            "{path}: not UTF-8 at byte {start}", hint="save the file as UTF-8", path=path, start=error.start
        ) from None
    lines: dict[KeyPath, int] = {}
    try:
        return Document(_walk(_compose(text), lines, (), [0]), lines)
    except _RefusedError as error:
        raise LaunchError(f"{path}:{error.line}: {error}", hint=error.hint) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise LaunchError(
            "{path}:{line}: not valid YAML: {problem}",
            hint="correct the file at that line",
            path=path,
            line=line,
            problem=error.problem,
        ) from None
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise LaunchError("{path}: not valid YAML: {first}", hint="correct the file", path=path, first=first) from None


def _opened(path: Path) -> int:
    """A descriptor of the file; a pipe, as of `<(...)` in a shell, is one that somebody writes to. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISFIFO(os.fstat(handle).st_mode) and not select.select([handle], [], [], PIPE_S)[0]:
        os.close(handle)
        raise TimeoutError(errno.ETIMEDOUT, "a named pipe that nobody writes to", str(path))
    os.set_blocking(handle, True)
    return handle


class _RefusedError(Exception):
    def __init__(self, what: str, line: int, hint: str) -> None:
        super().__init__(what)
        self.line = line
        self.hint = hint


def _compose(text: str) -> yaml.Node | None:
    # parse() is a flat state machine; compose() recurses, so the depth is checked before it.
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise _RefusedError(
                    Message("nested more than {max_depth} levels deep", max_depth=MAX_DEPTH),
                    line,
                    Message("a recipe needs four levels"),
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return yaml.compose(text, Loader=_Loader)


def _walk(node: yaml.Node | None, lines: dict[KeyPath, int], path: KeyPath, count: list[int]) -> Any:
    if node is None:
        return None
    line = _line(node)
    lines.setdefault(path, line)
    count[0] += 1
    if len(path) > MAX_DEPTH:
        raise _RefusedError(Message("an alias contains itself"), line, Message("write the values out"))
    if count[0] > MAX_VALUES:
        raise _RefusedError(
            Message("more than {max_values} values once aliases are followed", max_values=MAX_VALUES),
            line,
            Message("remove the nested aliases"),
        )
    if isinstance(node, yaml.CollectionNode) and node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        raise _RefusedError(
            Message("not valid YAML: the tag {tag} is not read", tag=node.tag), line, Message("write plain values")
        )
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = _line(key_node)
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise _RefusedError(
                    Message("YAML merge keys (<<) are not read"),
                    key_line,
                    Message("use `extends:` to build on a recipe"),
                )
            key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise _RefusedError(
                    Message("key {key} is not text", key=_as_written(key_node)),
                    key_line,
                    Message("write keys as words"),
                )
            if key in out:
                raise _RefusedError(
                    Message("key `{key}` appears twice", key=key), key_line, Message("keep one of the two")
                )
            lines[(*path, key)] = key_line
            out[key] = _walk(value_node, lines, (*path, key), count)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_walk(item, lines, (*path, i), count) for i, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # 2024-99-99 looks like a date and is none
        raise _RefusedError(f"{node.value!r}: {error}", _line(node), Message("quote the value")) from None
    finally:
        loader.dispose()


def _as_written(node: yaml.Node) -> str:
    start, end = node.start_mark, node.end_mark
    return textwrap.shorten(str(start.buffer)[start.pointer : end.pointer], 60, placeholder=" ...")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 1


def _nearest(path: Path, kind: str) -> str:
    import difflib

    names = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return Message("did you mean {parent}?", parent=path.parent / close[0])
    if kind != "recipe":
        return Message("name a {kind} file", kind=kind)
    shipped = difflib.get_close_matches(path.stem, [p.stem for p in assets.recipes()], n=1)
    if shipped:
        return Message("did you mean the shipped recipe {shipped}?", shipped=shipped[0])
    return Message("name a recipe file, or a shipped recipe: `ascend-launch recipes` lists them")
