"""The regular expressions of signatures: how they are written, and the plain text that they need."""

from __future__ import annotations

import re
from typing import Any

try:
    from re import _parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as _parser  # type: ignore[no-redef,import-not-found,unused-ignore]

# "EI0006: 2024-..." | "EI0006: [PID: 1] 2025-..." | "Some_Title(EI0006): ..." | the undated block of 2023, at a line's start
_CODE = r"(?:(?<=\w\(){0}\):|\b{0}: ?(?=\[PID|\d{{4}}-\d\d-\d\d)|\b{0}\[PID: ?\d+\]|^\s*{0}: (?=[A-Z]))"


def compiled(text: str) -> re.Pattern[str]:
    """A regular expression of the table; `<EI0006>` becomes the shapes in which CANN prints a code."""
    return re.compile(
        re.sub(r"<((?:\(\?:)?E[A-Z0-9]\d{4,5}(?:\|E[A-Z0-9]\d{4,5})*\)?)>", lambda m: _CODE.format(m[1]), text)
    )


def needles(pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Texts of which every match holds at least one; () where nothing of the kind can be said."""
    return _needles(_parser.parse(pattern.pattern))


def _needles(pattern: Any) -> tuple[str, ...]:
    options: list[tuple[str, ...]] = []
    run = ""
    for operation, value in [*pattern, ("END", None)]:
        if str(operation) == "LITERAL":
            run += chr(value)
            continue
        options += [(run,)] if run else []
        run = ""
        inner: tuple[str, ...] = ()
        if str(operation) == "SUBPATTERN":
            inner = _needles(value[-1])
        elif str(operation) in ("MAX_REPEAT", "MIN_REPEAT") and value[0]:
            inner = _needles(value[2])
        elif str(operation) == "BRANCH":
            branches = [_needles(branch) for branch in value[1]]
            inner = tuple(n for branch in branches for n in branch) if all(branches) else ()
        options += [inner] if inner else []
    return max(options, key=lambda texts: min(map(len, texts)), default=())
