"""Where lines for a person go."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from rich.console import Console

from launcher import scrub
from launcher.show.text import Text


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """rich would end the program here; whoever started it knows what a reader that left means."""
        raise BrokenPipeError


out = _Console(highlight=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False, soft_wrap=True)


def joined(lines: Iterable[tuple[str, str, str, str]]) -> Text:
    out = Text()
    for number, (left, style, right, other) in enumerate(lines):
        out.append("\n" if number else "").append(left, style).append(right, other)
    return out


def print_json(value: Any, indent: int | None = 2) -> str:
    """For a program, or for a person's terminal."""
    return scrub.escaped(json.dumps(scrub.value(value), indent=indent, ensure_ascii=False))


def number_text(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"
