"""A log, line by line: which lines can match, and what stands beside them."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Sequence

from launcher.diagnose.explain.lines import (
    ANSI,
    CARD,
    EXCEPTION,
    FRAME_LINES,
    HOST,
    PLOG,
    QUIET,
    RANK,
    WHO,
    Line,
    first_int,
    numbered,
    seconds_of,
    shape_of,
    strip,
)
from launcher.diagnose.explain.matches import Match, Row, candidates, matches_of_line, refined
from launcher.diagnose.explain.signatures import ORDER

_PASSING = re.compile(r"20\d\d-\d\d-\d\d[-T ][\d:.,]+|PID:\s?\d+")
"""What no pattern asks for, and what differs in lines that are otherwise one."""


class Lines:
    """The lines of a log that match a signature, and their matches.

    A failing job repeats itself: thousands of lines of a few shapes. Which rows of the table could know a shape is asked
    once, by the plain texts that their patterns hold; only theirs are tried on its lines. After MAX_REPEATS lines in
    which the same was found, more are passed over: the first event in which a row shows decides what is said of it.
    """

    MAX_REPEATS = 500

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Row, ...] | None] = {}
        """Shape → the rows that could know it; None where its lines do not even say which process wrote them."""

    def of(self, text: str) -> Iterator[tuple[Line, list[Match], Sequence[str]]]:
        """(line, its matches, the few lines before) of each line that matches something; in order."""
        seen: dict[tuple[str, ...], int] = {}
        times: collections.Counter[str] = collections.Counter()
        passed: set[str] = set()
        before: collections.deque[str] = collections.deque(maxlen=FRAME_LINES)
        for number, raw in numbered(text):
            same = raw
            if raw in passed:
                before.append(raw)
                continue
            shape = shape_of(raw)
            rows = self._rows_of(shape)
            if rows is not None:
                times[shape] += 1
                if times[shape] > self.MAX_REPEATS:
                    same = _PASSING.sub("", raw)
            if rows is not None and same not in passed:
                stripped = strip(raw)
                matches = matches_of_line(stripped[0], rows)
                key = (shape, *(s.id for s, _ in matches))
                count = seen[key] = seen.get(key, 0) + 1
                if count > self.MAX_REPEATS:
                    passed |= {raw, same}
                else:
                    line = _line(number, stripped, before[-1] if before else "", raw)
                    yield line, [] if line.is_context else [refined(Match(s, line, g)) for s, g in matches], before
            before.append(raw)

    def kind(self, raw: str) -> str:
        """`root`, or the kind of a line's least consequential row; empty where none but a note knows it."""
        rows = self._rows_of(shape_of(raw))
        matches = matches_of_line(strip(raw)[0], rows) if rows else []
        return min((s.kind for s, _ in matches if s.kind != "note"), key=ORDER.__getitem__, default="")

    def _rows_of(self, shape: str) -> tuple[Row, ...] | None:
        if shape not in self.rows:
            rows = candidates(ANSI.sub("", shape) if "\x1b" in shape else shape)
            self.rows[shape] = rows if rows or any(word in shape for word in WHO) else None
        return self.rows[shape]


def _line(number: int, stripped: tuple[str, int | None, str | None], previous: str, raw: str) -> Line:
    text, rank, host = stripped
    time_s = seconds_of(text)
    if time_s is None and raw.startswith("20"):
        time_s = seconds_of(raw)
    level = PLOG.match(text)
    # The line under `File "x.py", line 3` is the source: a raise with its text in it is not that error.
    is_code = text.lstrip().startswith('File "') or ('File "' in previous and not EXCEPTION.match(text))
    if any(word in text for word in WHO):
        own, named, card = first_int(RANK.search(text)), HOST.match(text), first_int(CARD.search(text))
        rank, host = own if own is not None else rank, named[1] if named else host
    else:
        card = None
    is_quiet = level is not None and level["level"] in QUIET
    return Line(number, text, rank, card, host, time_s, is_context=is_code or is_quiet)
