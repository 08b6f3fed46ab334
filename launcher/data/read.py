"""The conversations of a recipe: of every set that is trained on and evaluated, chosen, mixed and held out.

What is chosen follows from the rows, the recipe and its seeds alone: not from ranks, nodes or the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from launcher.data import conversations, mixture, rows, sources
from launcher.data.problems import Problems
from launcher.data.sources import Source
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.schema import Data

Load = Callable[[Source], Iterable[Mapping[str, Any]]]
"""The rows of a set that is not on this machine, or that only `datasets` reads. Raises LaunchError."""


@dataclass
class Read:
    """What was read."""

    splits: dict[str, list[str]]
    """`train`, and `eval` or `eval.NAME`: conversations as JSON."""
    notes: list[str] = field(default_factory=list)


def read(data: Data, load: Load, *, trains: bool = True) -> Read:
    """Read every set of a recipe.

    Args:
        data: the recipe's.
        load: reads what files on this machine do not hold.
        trains: whether the training rows are wanted; without, only what is evaluated.

    Raises:
        LaunchError: with everything that is wrong with the rows, up to a number.
    """
    problems, out = Problems(), Read({})
    held_out = data.eval.hold_out if data.eval is not None else None
    if trains or held_out is not None:
        sets = sources.train(data)
        parts = [_conversations(one, load, problems, out.notes) for one in sets]
    evaluated = {name: _conversations(one, load, problems, out.notes) for name, one in sources.evaluation(data).items()}
    problems.raise_if_any()
    if trains or held_out is not None:
        chosen = mixture.mixed(sets, parts, out.notes)
        if data.eval is not None and held_out is not None:
            kept, held = mixture.held_out(chosen, held_out, data.eval.seed)
            evaluated["eval"] = mixture.limited([chosen[i] for i in held], data.eval.limit, data.eval.seed)
            chosen = [chosen[i] for i in kept]
        if trains:
            out.splits["train"] = chosen
    for name, one in sources.evaluation(data).items():
        evaluated[name] = mixture.limited(evaluated[name], one.spec.limit, one.spec.seed)
    out.splits |= evaluated
    return out


def _conversations(source: Source, load: Load, problems: Problems, notes: list[str]) -> list[str]:
    before = problems.count
    parts = sources.local(source)
    if parts is None:
        given = load(source)
        placed: Iterable[tuple[object, Mapping[str, Any]]] = (
            (rows.place(source.where, number, has_lines=False), row) for number, row in enumerate(given)
        )
    else:
        placed = ((row.place, row.value) for row in rows.of_files(source, parts, problems, notes))
    out = list(conversations.of_rows(source, placed, problems))
    if not out and problems.count == before:
        raise LaunchError("{where}: has no rows", hint="name another file or split", where=source.where)
    if (limit := source.spec.limit) is not None and limit > len(out):
        text = Message(
            "{where}: limit is {limit:,}, the split has {count:,} rows: all are used",
            where=source.where,
            limit=limit,
            count=len(out),
        )
        notes.append(text)
    return out
