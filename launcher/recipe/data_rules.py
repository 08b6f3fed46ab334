"""What of a recipe's `data:` does not go together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.messages import Message
from launcher.recipe import formats, metrics
from launcher.recipe.schema import NO_DATA, Data, EvalSplit, Split
from launcher.recipe.tasks.table import Problem, Task

_RESERVED = frozenset({"loss", "runtime", "eval", "train"})


def problems(task: Task, data: Data) -> Iterator[Problem]:
    """Keys below which, and what is wrong."""
    if data.path == NO_DATA and not data.sets:
        yield ("data",), Message("`path:` is missing")
    if data.sets:
        yield from _of_sets(data)
    if not task.has_conversations:
        yield from _of_one_set(task, data)
    yield from _unknown_columns(("data",), data.format, data.columns)
    for number, one in enumerate(data.sets):
        yield from _unknown_columns(("data", "sets", str(number)), one.format, one.columns)
    held = data.eval
    if held is not None and held.hold_out is not None and held.split != EvalSplit().split:
        yield ("data", "eval"), Message("hold_out takes rows of the training, and split names others; leave one out")
    if held is not None and held.sets is not None and held != EvalSplit(sets=held.sets):
        yield ("data", "eval"), Message("sets by names have split, limit and seed each; leave out those beside them")
    for name, spec in (held.sets or {}).items() if held is not None else ():
        yield from _unknown_columns(("data", "eval", name), spec.format, spec.columns)
        if not re.fullmatch(r"[a-z0-9_-]+", name) or name in _RESERVED or name in metrics.TABLE:
            yield (
                ("data", "eval", name),
                Message("as the name of a set it has letters from a to z, digits, _ and -, and is no metric"),
            )
        if spec.weight is not None:
            yield ("data", "eval", name, "weight"), Message("a weight is for sets that are trained on")


def has_files(data: Data) -> bool:
    """Whether a file or folder that it names is on this machine."""
    named = data.data_files.values() if isinstance(data.data_files, dict) else [data.data_files or data.path]
    listed = [one for names in named for one in ([names] if isinstance(names, str) else names)]
    return any(Path(name).expanduser().exists() for name in listed)


def _of_sets(data: Data) -> Iterator[Problem]:
    for key in ("path", "name", "data_files", "data_dir", "revision"):
        if getattr(data, key) != Data.model_fields[key].default:
            yield ("data", key), Message("not beside data.sets; write it into a set")
    if data.train != Split():
        yield ("data", "train"), Message("not beside data.sets; write split and limit into a set")
    if data.eval is not None and data.eval.hold_out is None and data.eval.sets is None:
        yield (
            ("data", "eval"),
            Message(
                "with data.sets it says what is evaluated: a share that is held out (0.1), sets by names "
                "({test: {path: FILE}}), or null"
            ),
        )
    weighted = [one.weight is not None for one in data.sets]
    if any(weighted) and not all(weighted):
        yield ("data", "sets"), Message("some sets have a weight and others none; give every set one, or none of them")


def _of_one_set(task: Task, data: Data) -> Iterator[Problem]:
    text = Message("model.task: {task} reads one set of rows, and no conversations", task=task.name)
    for key in ("sets", "format", "columns"):
        if getattr(data, key) != Data.model_fields[key].default:
            yield ("data", key), text
    if data.eval is not None and data.eval.sets is not None:
        yield ("data", "eval"), text


def _unknown_columns(path: tuple[str, ...], name: str, columns: Mapping[str, str]) -> Iterator[Problem]:
    known = formats.keys(name)
    for key in columns:
        if known and key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            more = (
                Message("; did you mean `{close}`?", close=close[0])
                if close
                else Message("; keys here are {keys_of}", keys_of=", ".join(known))
            )
            yield (*path, "columns", key), Message("unknown key{did_you_mean}", did_you_mean=more)
