"""Which signature a line matches, and which matches belong to one event."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from launcher.diagnose.explain.lines import DIGITS, Line
from launcher.diagnose.explain.patterns import needles
from launcher.diagnose.explain.signatures import Signature, by_id, signatures

_EVENT_LINES, _EVENT_SECONDS = 40, 60.0
"""Matches this near to each other belong to one event."""


@dataclass(frozen=True)
class Match:
    signature: Signature
    line: Line
    groups: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """A signature, and the texts of which each line that it knows holds one: finding a text is far cheaper than trying
    500 patterns."""

    signature: Signature
    needles: tuple[str, ...]


@functools.cache
def _rows() -> tuple[Row, ...]:
    """All rows; those first that know a line by its text, and then those that read any code."""
    rows = []
    for s in sorted(signatures(), key=lambda s: s.is_generic):
        texts = [] if s.look else [n for p in s.patterns for n in needles(p)]
        rows.append(Row(s, tuple(dict.fromkeys(texts))))
    return tuple(rows)


@functools.cache
def _index() -> tuple[tuple[str, int, str], ...]:
    """(text with all digits 1, as in a shape; place of its row; text)."""
    return tuple((n.translate(DIGITS), place, n) for place, row in enumerate(_rows()) for n in row.needles)


@functools.cache
def _looks() -> tuple[tuple[re.Pattern[str], int], ...]:
    return tuple((r.signature.look, place) for place, r in enumerate(_rows()) if r.signature.look is not None)


def candidates(shape: str) -> tuple[Row, ...]:
    """The rows that could know lines of a shape, each with those of its texts that may be in them."""
    places: dict[int, tuple[str, ...]] = {place: () for look, place in _looks() if look.search(shape)}
    for needle, place, text in _index():
        if needle in shape:
            places[place] = (*places.get(place, ()), text)
    return tuple(Row(_rows()[place].signature, places[place]) for place in sorted(places))


def matches_of_line(text: str, rows: Iterable[Row]) -> list[tuple[Signature, dict[str, str]]]:
    """(signature, its groups) of the rows that know a line; one that reads any code, where no other but a wrapper does."""
    matches: list[tuple[Signature, dict[str, str]]] = []
    is_known = False
    for row in rows:
        signature = row.signature
        if (is_known and signature.is_generic) or (row.needles and not any(n in text for n in row.needles)):
            continue
        m = next((m for pattern in signature.patterns if (m := pattern.search(text))), None)
        if m is not None:
            matches.append((signature, {k: v for k, v in m.groupdict().items() if v is not None}))
            is_known = is_known or (not signature.is_generic and signature.kind != "wrapper")
    return matches


def refined(match: Match) -> Match:
    if match.signature.refine == "oom" and _others_hold_the_card(match.groups):
        return replace(match, signature=by_id()["oom-npu-others"])
    if match.signature.refine == "positions" and int(match.groups["length"]) <= int(match.groups["positions"]):
        return replace(match, signature=by_id()["shape-mismatch"], groups={})
    return match


_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _bytes(text: str) -> float:
    number, _, unit = text.partition(" ")
    try:
        return float(number) * _UNITS.get(unit, 1)
    except ValueError:
        return 0.0


def _others_hold_the_card(groups: Mapping[str, str]) -> bool:
    """The card's total, less what this process reserved, less what is free, is what others hold.

    An idle card of "64 GB" shows about 61 GiB here, so CANN's own share is already outside the total; a few hundred
    MiB remain for this process's own contexts and HCCL buffers, so only more than 3 GiB and a tenth counts.
    """
    total, free, reserved = (_bytes(groups.get(k, "")) for k in ("total", "free", "reserved"))
    missing = total - reserved - free
    return total > 0 and missing > max(3 * _UNITS["GiB"], total / 10)


def events(matches: Sequence[Match]) -> Iterator[list[Match]]:
    """Matches in runs, one run for each event."""
    event: list[Match] = []
    began_s: float | None = None
    for match in matches:
        time_s = match.line.time_s
        if event:
            near = match.line.number - event[-1].line.number <= _EVENT_LINES
            soon = time_s is None or began_s is None or abs(time_s - began_s) <= _EVENT_SECONDS
            if not (near and soon):
                yield event
                event, began_s = [], None
        event.append(match)
        began_s = time_s if began_s is None else began_s
    if event:
        yield event
