"""Splits as load_dataset writes them: `train`, `train[:90%]`, `train[100:200]`, `train+test`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from launcher.errors import LaunchError

_PART = re.compile(r"([\w.-]+?)(?:\[(?:(-?\d+)(%)?)?:(?:(-?\d+)(%)?)?\])?")


@dataclass(frozen=True)
class Slice:
    """Some rows of one split."""

    base: str
    begin: int | None = None
    is_begin_share: bool = False
    end: int | None = None
    is_end_share: bool = False

    @property
    def is_all(self) -> bool:
        return self.begin is None and self.end is None

    def rows(self, count: int) -> range:
        """Which of so many rows."""
        return range(count)[
            slice(_row(self.begin, self.is_begin_share, count), _row(self.end, self.is_end_share, count))
        ]


def _row(bound: int | None, is_share: bool, count: int) -> int | None:
    return bound if bound is None or not is_share else round(bound * count / 100)


def parsed(split: str) -> list[Slice]:
    """The parts of a split. Raises LaunchError."""
    parts = []
    for word in split.split("+"):
        match = _PART.fullmatch(word.strip())
        if match is None:
            raise LaunchError(
                "{split!r} is not a split",
                hint="write it as train, train[:90%], train[100:200] or train+test",
                split=split,
            )
        begin, end = (int(match[i]) if match[i] else None for i in (2, 4))
        parts.append(Slice(match[1], begin, bool(match[3]), end, bool(match[5])))
    return parts
