"""From an event in a log to what is said of it: cause, rank, fix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from launcher.diagnose.explain import error_codes
from launcher.diagnose.explain.lines import MAX_LINE, Line, strip
from launcher.diagnose.explain.matches import Match
from launcher.diagnose.explain.python_errors import TRACEBACK
from launcher.diagnose.explain.signatures import CODES, Kind, Lang
from launcher.diagnose.explain.source import Source
from launcher.messages import Message


@dataclass(frozen=True)
class Verdict:
    """One explained error."""

    id: str
    kind: Kind
    area: str
    cause: str
    fix: str
    source: str
    line: str
    """The text that gave it away."""
    file: str = ""
    line_number: int = 0
    rank: int | None = None
    """The culprit: the rank that reported, or the one it accuses; None where it waits for a peer it cannot name."""
    ranks: tuple[int, ...] = ()
    """All culprits where there are several."""
    host: str | None = None
    card: int | None = None
    reported_by: int | None = None
    """The rank in whose log it stands, where that is not the culprit, or the culprit is not named."""
    reported_card: int | None = None
    time_s: float | None = None
    weight: int = field(default=50, repr=False)

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k != "weight" and v not in (None, (), "")}


OPTIONAL = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]")
_FIELD = re.compile(r"\{(\w+)\}")


def _fill(template: str, fields: Mapping[str, str]) -> str:
    """`{name}` from the log's own text. `[[text {name}|other text]]` is the first that the log fills, or nothing: so
    every field stands in brackets, but those that each of the row's patterns fills. Other braces are text."""

    def chosen(m: re.Match[str]) -> str:
        options = m[1].split("|")
        return next((o for o in options if all(fields.get(n) for n in _FIELD.findall(o))), "")

    count = 1
    while count:
        template, count = OPTIONAL.subn(chosen, template)
    return _FIELD.sub(lambda m: fields.get(m[1], ""), template)


def _context(event: Sequence[Match], anywhere: _Context) -> _Context:
    """Rank, card and host that the lines of an event, else any line of the log, name for the process that wrote them."""
    near = named_fields([m.line for m in event])
    return _Context(
        near.rank if near.rank is not None else anywhere.rank,
        near.card if near.card is not None else anywhere.card,
        near.host,
    )


@dataclass(frozen=True)
class _Context:
    """Which process wrote something, as far as it says."""

    rank: int | None
    card: int | None
    host: str | None


def named_fields(lines: Sequence[Line]) -> _Context:
    return _Context(
        next((x.rank for x in lines if x.rank is not None), None),
        next((x.card for x in lines if x.card is not None), None),
        next((x.host for x in lines if x.host), None),
    )


def _int_or_none(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 9 else None


def _culprits(event: Sequence[Match], chosen: Match) -> tuple[tuple[int, ...], int | None, str | None]:
    """(ranks, card, host) that an event's texts accuse. The chosen line first; lines of the same signature add to it."""
    ranks: tuple[int, ...] = ()
    card: int | None = None
    host: str | None = None
    for match in (chosen, *(m for m in event if m.signature is chosen.signature)):
        groups = match.groups
        if not ranks and "ranks" in groups:
            ranks = tuple(int(r) for r in re.findall(r"\d{1,6}", groups["ranks"]))
        if not ranks and (rank := _int_or_none(groups.get("rank"))) is not None:
            ranks = (rank,)
        if card is None:
            card = _int_or_none(groups.get("card"))
        host = host or groups.get("host")
    return ranks, card, host


_NEED = re.compile(r"need connect rankNum is \[(\d{1,6})\]")


def _missing_ranks(text: str, event: Sequence[Match]) -> tuple[int, ...]:
    """Ranks that did not connect: rank 0 lists those that did, and how many it waits for."""
    connected = {int(r) for m in event for r in re.findall(r"\d{1,18}", m.groups.get("connected", ""))}
    need = _NEED.search(text)
    if not connected or need is None or int(need[1]) > 100_000:
        return ()
    return tuple(r for r in range(int(need[1])) if r not in connected)


def span(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:16]))
    return Message("{ranks} (and {count} more)", ranks=shown, count=len(ranks) - 16) if len(ranks) > 16 else shown


_SHARED = frozenset({"kernel"})
"""Groups that one line of an event gives, and the text of another may name."""


def verdict_of(source: Source, event: Sequence[Match], chosen: Match, anywhere: _Context, lang: Lang) -> Verdict:
    signature = chosen.signature
    own = _context(event, anywhere)
    reporter_rank = source.rank if source.rank is not None else own.rank
    own_card = source.card if source.card is not None else own.card
    ranks, culprit_card, culprit_host = _culprits(event, chosen)
    if signature.refine == "missing_ranks" and not ranks:
        ranks = _missing_ranks(source.text, event)
    accuses = signature.kind in ("peer", "consequence")
    times = [m.line.time_s for m in event if m.line.time_s is not None]
    fields = _fields(source, event, chosen, ranks, lang)
    return Verdict(
        id=signature.id,
        kind=signature.kind,
        area=signature.area,
        cause=_fill(signature.cause[lang], fields),
        fix=_fill(signature.fix[lang], fields),
        source=signature.source,
        line=chosen.line.text.strip()[:500],
        file=source.name,
        line_number=chosen.line.number,
        rank=ranks[0] if ranks else (None if accuses else reporter_rank),
        ranks=ranks if len(ranks) > 1 else (),
        host=culprit_host or (None if accuses else (source.host or own.host)),
        card=culprit_card if culprit_card is not None else (None if accuses else own_card),
        reported_by=reporter_rank if accuses and reporter_rank not in ranks else None,
        reported_card=own_card if accuses else None,
        time_s=source.time_s if source.time_s is not None else (times[0] if times else None),
        weight=signature.weight,
    )


def _fields(source: Source, event: Sequence[Match], chosen: Match, ranks: Sequence[int], lang: Lang) -> dict[str, str]:
    """What a signature's texts are filled from: its groups, what the lines behind it add, and what codes mean."""
    fields = {k: v for m in event for k, v in m.groups.items() if k in _SHARED}
    fields |= {k: v for m in event if m.signature is chosen.signature for k, v in m.groups.items()}
    fields |= chosen.groups
    if ranks:
        fields["ranks"] = fields["rank"] = span(ranks)
    if fields.get("count", "").isdecimal() and int(fields["count"]) > 0:
        fields["last"] = str(int(fields["count"]) - 1)
    if chosen.signature.refine in CODES:
        fields |= {"text": fields["text"].rstrip(". ")} if "text" in fields else {}
        fields |= _behind(source.text, chosen.line.number)
        fields |= error_codes.words(chosen.signature.refine, fields, lang)
    return fields


_BEHIND = {
    "said": re.compile(r"^\s*\[Error\]:\s*(.+?)\s*$"),
    "reason": re.compile(r"^\s*(?:Possible Cause|Cause|Reason|可能原因|可能的原因|原因)\s*[:：]\s*(.+?)\s*$"),
    "solution": re.compile(r"^\s*(?:Solution|Suggestion|解决方法|解决方案|处理建议)\s*[:：]\s*(.+?)\s*$"),
}
_MAX_BEHIND = 12
"""Lines of a CANN block that are read for its reason and its solution."""
_NO_HELP = re.compile(r"^(?:N/?A|None|-|无|不涉及)\W*$", re.IGNORECASE)


def _behind(text: str, number: int) -> dict[str, str]:
    """The reason and the solution that the lines behind an error carry; a numbered list goes on in the lines after it."""
    texts: dict[str, str] = {}
    last = ""
    for raw in _slice(text, number, _MAX_BEHIND):
        line = strip(raw)[0]
        if TRACEBACK in line or line.lstrip().startswith("TraceBack"):
            break
        for name, pattern in _BEHIND.items():
            if (m := pattern.match(line)) and name not in texts:
                texts[name], last = m[1], name
                break
        else:
            if last in ("reason", "solution") and re.match(r"^\s+\d\.\s?\S", line):
                texts[last] += " " + line.strip()
            else:
                last = ""
    return {name: value.rstrip(".。") for name, value in texts.items() if not _NO_HELP.match(value)}


def _slice(text: str, number: int, count: int) -> list[str]:
    """`count` lines from the one after `number`."""
    at = -1
    for _ in range(number):
        at = text.find("\n", at + 1)
        if at < 0:
            return []
    return text[at + 1 : at + 1 + count * MAX_LINE].split("\n")[:count]


@dataclass(frozen=True)
class Report:
    """The diagnosis of a run directory, a plog folder or a text."""

    path: str
    verdict: Verdict | None
    others: tuple[Verdict, ...] = ()
    """Further verdicts, best first: consequences, notes, later errors."""
    suspects: tuple[int, ...] = ()
    """Where no rank shows a real error: ranks that are silent while the others wait for somebody."""
    num_files: int = 0
    num_ranks: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "verdict": self.verdict.to_json() if self.verdict else None,
            "others": [v.to_json() for v in self.others],
            "suspects": list(self.suspects),
            "num_files": self.num_files,
            "num_ranks": self.num_ranks,
        }
