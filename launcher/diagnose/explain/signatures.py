"""The known errors: how each is recognised, and what its text says."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import yaml

from launcher.messages import Message

Kind = Literal["root", "peer", "consequence", "wrapper", "note"]
Lang = Literal["en", "zh"]
ORDER: dict[str, int] = {"root": 0, "peer": 1, "consequence": 2, "wrapper": 3, "note": 4}

SIGNATURES = Path(__file__).with_name("signatures.yaml")


@dataclass(frozen=True)
class Signature:
    """One row of signatures.yaml."""

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


# "EI0006: 2024-..." | "EI0006: [PID: 1] 2025-..." | "Some_Title(EI0006): ..." | the undated block of 2023, at a line's start
_CODE = r"(?:(?<=\w\(){0}\):|\b{0}: ?(?=\[PID|\d{{4}}-\d\d-\d\d)|\b{0}\[PID: ?\d+\]|^\s*{0}: (?=[A-Z]))"


def _pattern(text: str) -> re.Pattern[str]:
    """A regular expression of the table; `<EI0006>` becomes the shapes in which CANN prints a code."""
    return re.compile(
        re.sub(r"<((?:\(\?:)?E[A-Z0-9]\d{4,5}(?:\|E[A-Z0-9]\d{4,5})*\)?)>", lambda m: _CODE.format(m[1]), text)
    )


@functools.cache
def signatures() -> tuple[Signature, ...]:
    """The table, compiled. libyaml reads it in a tenth of the time where it is there."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rows = yaml.load(SIGNATURES.read_text(encoding="utf-8"), loader)  # noqa: S506 (a safe loader both ways)
    return tuple(
        Signature(
            id=r["id"],
            area=r["area"],
            kind=r.get("kind", "root"),
            weight=r.get("weight", 50),
            patterns=tuple(_pattern(m) for m in r["match"]),
            cause={"en": r["en"]["cause"], "zh": r["zh"]["cause"]},
            fix={"en": r["en"]["fix"], "zh": r["zh"]["fix"]},
            source=r["source"],
            refine=r.get("refine", ""),
            is_generic=r.get("generic", False),
            look=re.compile(r["look"]) if "look" in r else None,
            examples=tuple(r.get("examples", ())),
            raw_patterns=tuple(r["match"]),
        )
        for r in rows
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
"""Stands for failure.json's own words, where no log tells more."""
