"""The known errors: how each is recognised, and what its text says. One file an area: signatures/<area>.yaml, of mappings:

id       the verdict's name, stable: scripts may compare it
kind     root         the failure itself
         peer         this rank waits or fails because of another rank: the text may name which
         consequence  follows from a failure elsewhere; never the verdict while anything above is known
         wrapper      a layer's label around the real message; used only when nothing else is known
         note         harmless on its own
weight   within one event the heaviest wins: 50 by default, more for texts that say more, less for bare numbers
match    regular expressions, tried on one line each, after prefixes such as "[rank3]:" are removed.
         <EI0006> stands for the three shapes CANN gives a code: "EI0006: 2024-...", "EI0006: [PID: 1] 2025-..." and
         "Some_Title(EI0006): ...". Named groups: rank, ranks, card, host are the culprit's; others fill {braces}.
texts    [[text {group}|other text]] is the first that the log fills, or nothing; no {group} stands outside of it
generic  reads any code of its kind; counts only on lines that no other row but a wrapper knows
look     what a line, all digits being 1, must hold to be searched by `match` at all, where those have no plain text in common
refine   cann, acl, hccl: {name}, {meaning}, {module} from error_codes.yaml; {said}, {reason}, {solution} from the lines
         behind it. others: a rule of launcher/diagnose/explain/report.py
examples lines that must give this verdict, in our own values; the tests read them

A package adds rows by an entry point in the group `ascend_launch.signatures`. Its object has `interface`, the INTERFACE that
it was written for, and `signatures`: the path of such a file, or a list of such mappings, each with its `area` (one of AREAS).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from launcher.diagnose.explain.patterns import compiled, needles
from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.plugins import Table

Kind = Literal["root", "peer", "consequence", "wrapper", "note"]
Lang = Literal["en", "zh"]
ORDER: dict[str, int] = {"root": 0, "peer": 1, "consequence": 2, "wrapper": 3, "note": 4}

FOLDER = Path(__file__).with_name("signatures")
AREAS = (
    "environment",
    "device",
    "memory",
    "communication",
    "operator",
    "deepspeed",
    "model",
    "data",
    "system",
    "python",
)
"""In their order: of two that know a line equally well, the first is taken."""
CODES = ("cann", "acl", "hccl")
"""Of `refine`: whose numbers error_codes.yaml knows. Other rules are for built-in signatures."""
INTERFACE = 1


class Added(Protocol):
    """What an entry point names."""

    interface: int
    signatures: str | os.PathLike[str] | Sequence[Mapping[str, Any]]


TABLE: Table[Added] = Table("signatures", "ascend_launch.signatures", INTERFACE, {})


@dataclass(frozen=True)
class Signature:
    """One row of a file."""

    id: str
    area: str
    kind: Kind
    weight: int
    patterns: tuple[re.Pattern[str], ...]
    cause: Mapping[str, str]
    fix: Mapping[str, str]
    source: str
    refine: str = ""
    is_generic: bool = False
    """Counts only where nothing but wrappers knows the line: it reads any code, without knowing what that one means."""
    look: re.Pattern[str] | None = None
    """What a line, all digits being 1, must hold to be searched, where the patterns have no plain text in common."""
    examples: tuple[str, ...] = ()
    raw_patterns: tuple[str, ...] = ()


@functools.cache
def built_in() -> tuple[Signature, ...]:
    """Those of the files beside this one, by area."""
    return tuple(_signature(row, area) for area in AREAS for row in _read(FOLDER / f"{area}.yaml"))


@functools.cache
def signatures() -> tuple[Signature, ...]:
    """The table, compiled: those built in, then those of other packages."""
    return (*built_in(), *_added()[0])


def problems() -> tuple[LaunchError, ...]:
    """Why signatures of other packages are left out. They never keep a log from being explained."""
    return _added()[1]


def _read(path: Path) -> Any:
    """libyaml reads it in a tenth of the time where it is there."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), loader)  # noqa: S506 (a safe loader both ways)


def _signature(row: Mapping[str, Any], area: str) -> Signature:
    return Signature(
        id=row["id"],
        area=area,
        kind=row.get("kind", "root"),
        weight=row.get("weight", 50),
        patterns=tuple(compiled(m) for m in row["match"]),
        cause={"en": row["en"]["cause"], "zh": row["zh"]["cause"]},
        fix={"en": row["en"]["fix"], "zh": row["zh"]["fix"]},
        source=row["source"],
        refine=row.get("refine", ""),
        is_generic=row.get("generic", False),
        look=re.compile(row["look"]) if "look" in row else None,
        examples=tuple(row.get("examples", ())),
        raw_patterns=tuple(row["match"]),
    )


# --- those of other packages ---------------------------------------------------------------------------------------


@functools.cache
def _added() -> tuple[tuple[Signature, ...], tuple[LaunchError, ...]]:
    """A package's signatures are all taken, or all left out for a reason."""
    taken: dict[str, Signature] = {}
    left_out: list[LaunchError] = []
    known = {s.id for s in built_in()}
    for name in TABLE.names():
        try:
            rows = _of_package(name, known | taken.keys())
        except LaunchError as error:
            left_out.append(error)
        else:
            taken |= {s.id: s for s in rows}
    return tuple(taken.values()), tuple(left_out)


def _of_package(name: str, known: Collection[str]) -> list[Signature]:
    rows = TABLE.load(name).signatures
    try:
        rows = list(_read(Path(rows)) if isinstance(rows, (str, os.PathLike)) else rows)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise _wrong(name, Message("cannot be read: {error}", error=error)) from error
    made: list[Signature] = []
    for number, row in enumerate(rows, 1):
        try:
            signature = _signature(row, row["area"])
            problem = _problem(signature, {*known, *(s.id for s in made)})
        except (LookupError, TypeError, AttributeError, re.error) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            raise _wrong(name, Message("row {number}: {problem}", number=number, problem=problem))
        made.append(signature)
    return made


def _problem(made: Signature, known: Collection[str]) -> str:
    """What keeps a package's row from being used; "" where nothing does."""
    texts = (made.id, made.source, *made.cause.values(), *made.fix.values(), *made.examples)
    if not all(isinstance(text, str) for text in texts) or type(made.weight) is not int:
        return Message("a text is not a string, or the weight not a whole number")
    if made.id in known:
        return Message("there is another signature {id}", id=made.id)
    if made.area not in AREAS or made.kind not in ORDER or made.refine not in ("", *CODES):
        return Message(
            "area {area}, kind {kind} or refine {refine} is unknown",
            area=made.area,
            kind=made.kind,
            refine=made.refine or "-",
        )
    bare = next((p for p in made.patterns if made.look is None and not needles(p)), None)
    return (
        Message("{pattern} has no plain text: say with `look` what a line must hold", pattern=bare.pattern)
        if bare
        else ""
    )


def _wrong(name: str, problem: str) -> LaunchError:
    return LaunchError(
        "signatures {name!r} are left out: {problem}",
        hint="correct or uninstall their package",
        name=name,
        problem=problem,
    )


@functools.cache
def by_id() -> dict[str, Signature]:
    return {s.id: s for s in signatures()}


PYTHON = Signature(
    id="python-exception",
    area="python",
    kind="root",
    weight=10,
    patterns=(),
    cause={
        "en": "{type}[[: {message}]][[ (raised at {where})]].",
        "zh": "{type}[[：{message}]][[（发生在 {where}）]]。",
    },
    fix={
        "en": Message("the launcher has no advice for this text; read the traceback in the log, its last frame first."),
        "zh": "这条错误不在知识库中；请看日志里的堆栈，从最后一帧看起。",
    },
    source="the traceback",
)
LAUNCH = replace(
    PYTHON,
    id="launch-error",
    weight=95,
    cause={"en": "{message}", "zh": "{message}"},
    fix={"en": "{hint}", "zh": "{hint}"},
    source="ascend-launch",
)
"""Our own error inside a rank: it brought its advice along."""
FAILURE = "launch-failure"
"""Stands for failure.json's own text, where no log explains more."""
