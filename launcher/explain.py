"""Why did it fail? Log text → cause, fix, source. The knowledge is in signatures.yaml; this file finds the line that counts.

Two rules decide. Within one log the earliest event wins, and inside an event the text that says most. Across ranks a
real error beats a rank that merely waited for another (HCCL's timeouts), and that beats a rank that noticed its peers
were gone (watchdogs, closed sockets): those follow from a failure elsewhere, however loudly and early they are printed.
"""

from __future__ import annotations

import collections
import functools
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

try:
    from re import _parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as _parser  # type: ignore[no-redef,import-not-found,unused-ignore]

from launcher import error_codes, messages
from launcher.errors import LaunchError
from launcher.records import failure as failure_in

Kind = Literal["root", "peer", "consequence", "wrapper", "note"]
Lang = Literal["en", "zh"]
_ORDER: dict[str, int] = {"root": 0, "peer": 1, "consequence": 2, "wrapper": 3, "note": 4}

SIGNATURES = Path(__file__).with_name("signatures.yaml")
_MAX_LINE = 4000
"""Characters of a line that are looked at; CANN's longest real line is about 1,500."""
_HEAD_BYTES, _TAIL_BYTES = 8 << 20, 16 << 20
"""Of a huge log the beginning (where the first error is) and the end (where the last one is) are read."""
_FRAME_LINES = 24
"""Lines above an exception in which the call that led to it is looked for: torch puts ten of its own between."""
_MAX_FILES = 4096
MAX_RANKS = 64
"""Of a console's log in which more ranks write, the first ones are told apart."""
_EVENT_LINES, _EVENT_SECONDS = 40, 60.0
"""Matches this near to each other tell of one event."""


# --- the table -----------------------------------------------------------------------------------------------------


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
def _by_id() -> dict[str, Signature]:
    return {s.id: s for s in signatures()}


# --- lines ---------------------------------------------------------------------------------------------------------

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What launchers and serving frameworks put before a line. A rank named there is the line's rank.
_HOST_PREFIX = re.compile(r"^(?P<host>[\w.-]+): (?=\[rank\d)")
_LEVEL_PREFIX = re.compile(r"^(?:ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\]|\S+:\d+\])\s?")
_STAMP = re.compile(r"^20\d\d-\d\d-\d\dT[\d:.,]+(?:Z|[+-]\d\d:?\d\d) (?:std(?:err|out) [FP] )?")  # containers' logs
_TASK = re.compile(r"^ {0,4}\d{1,5}: ")  # srun --label: a task, which need not be a rank
_SERVICE = re.compile(r"^[A-Za-z][\w.-]*\s+\| ")  # docker compose
_PREFIXES = {
    **dict.fromkeys("0123456789 ", (_STAMP, _TASK)),
    "[": (
        re.compile(r"^\[(?:rank|default|local_rank )(?P<rank>\d{1,6})\]:\s?"),
        re.compile(r"^\[(?P<rank>\d{1,6})\]:\s"),
        re.compile(r"^\[pod/[^\]\s]+\] ?"),  # kubectl logs --prefix
        re.compile(r"^\[\d{1,5},\d{1,5}\]<std(?:err|out)>: ?"),  # mpirun --tag-output
    ),
    "(": (re.compile(r"^\([A-Za-z_]\w*(?: rank=(?P<rank>\d{1,6}))?(?: pid=\d+)?(?:, ip=(?P<host>[\w.:]+))?\)\s?"),),
    "E": (_LEVEL_PREFIX, _HOST_PREFIX),
    "C": (_LEVEL_PREFIX, _HOST_PREFIX),
    ">": (re.compile(r"^> "),),
}
"""By their first letter."""
_MAX_PREFIX = 64
_PLOG = re.compile(r"^\[(?P<level>ERROR|WARNING|INFO|DEBUG|EVENT|TRACE)\] ?(?P<module>[A-Z_]+)\((?P<pid>\d{1,9}),")
_QUIET = {"INFO", "DEBUG", "EVENT", "TRACE"}
_CANN_TIME = re.compile(r"\b(20\d\d)-(\d\d)-(\d\d)[-T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,3}))?")
_RANK = re.compile(
    r"\bRankID:(-?\d{1,6})|\blocalUserrank\[(\d{1,6})\]|\brank(?:s|Num)\[\d+\],? ?rank\[(\d{1,6})\]|\brankId\[(\d{1,6})\]"
    r"|^\s*rank\s+: (\d{1,6}) \(local_rank"  # torch elastic's summary of the first failure
)
_HOST = re.compile(r"^\s*host\s+: (\S+)\s*$")
_CARD = re.compile(
    r"\bDevice:(-?\d{1,4})\b|\bdevice(?:Logic)?Id\[(\d{1,4})\]|\bdevice_id=(\d{1,4})|\bdevice\(chipId:(\d{1,4})|"
    r"\bcomm error, device\[(\d{1,4})\]|\bdeviceLogicId:(\d{1,4})"
)
_EXCEPTION = re.compile(r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*)(?:: (?P<message>.*))?$")
_PID = re.compile(r"\bPID: ?(\d{1,9})")
_WHO = ("RankID:", "localUserrank[", "rankId[", "rank[", "rank ", "host ", "evice", "comm error")
"""One of these is in every line that names the rank, host or card of the process that wrote it."""


@dataclass(frozen=True)
class _Line:
    """One line of a log, with what its own text says of where it comes from."""

    number: int
    text: str
    rank: int | None
    card: int | None
    host: str | None
    time_s: float | None
    is_context: bool = False
    """Only looked at for who wrote it: a level below warning, or source code inside a traceback."""


def _first_int(match: re.Match[str] | None) -> int | None:
    if match is None:
        return None
    value = next((int(g) for g in match.groups() if g is not None), -1)
    return value if value >= 0 else None


def _time_s(text: str) -> float | None:
    """Seconds since the epoch of the first full date in a line, read as local time as CANN writes it."""
    m = _CANN_TIME.search(text[:400])
    if m is None:
        return None
    y, mo, d, h, mi, s = (int(g) for g in m.groups()[:6])
    try:
        return time.mktime((y, mo, d, h, mi, s, 0, 0, -1)) + int((m[7] or "0").ljust(3, "0")) / 1000
    except (OverflowError, ValueError):
        return None


def _strip(text: str) -> tuple[str, int | None, str | None]:
    """A line without its prefixes, and the rank and host they named."""
    rank, host = None, None
    text = _ANSI.sub("", text[:_MAX_LINE]) if "\x1b" in text else text[:_MAX_LINE]
    for _ in range(4):
        prefixes = _PREFIXES.get(text[:1], ())
        if not prefixes and ": [rank" in text:
            prefixes = (_HOST_PREFIX,)
        elif not prefixes and " | " in text[:_MAX_PREFIX]:
            prefixes = (_SERVICE,)
        m = next((m for prefix in prefixes if (m := prefix.match(text))), None)
        if m is None:
            break
        found = m.groupdict()
        rank = int(found["rank"]) if found.get("rank") else rank
        host = found.get("host") or host
        text = text[m.end() :]
    return text, rank, host


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that hold anything. A progress bar's, which end in a bare carriage return, share one."""
    for number, line in enumerate(text.split("\n"), 1):
        if "\r" not in line:
            if line:
                yield number, line[:_MAX_LINE]
        else:
            yield from ((number, part[:_MAX_LINE]) for part in line.split("\r") if part)


_HEX = re.compile(r"0x[0-9a-fA-F]+")
_DIGITS = str.maketrans("0123456789", "1111111111")


def _shape(line: str) -> str:
    """A line without what its numbers say: times, addresses, ranks and steps make most of the lines of a log differ."""
    return (_HEX.sub("0x", line) if "0x" in line else line).translate(_DIGITS)


_PASSING = re.compile(r"20\d\d-\d\d-\d\d[-T ][\d:.,]+|PID:\s?\d+")
"""What no pattern asks for, and what differs in lines that are otherwise one."""


class _Lines:
    """The lines of a log that tell something, and what each tells.

    A failing job repeats itself: thousands of lines of a few shapes. Which rows of the table could know a shape is asked
    once, by the plain texts that their patterns hold; only theirs are tried on its lines. After MAX_REPEATS lines in
    which the same was found, more are passed over: the first event in which a row shows decides what is said of it.
    """

    MAX_REPEATS = 500

    def __init__(self) -> None:
        self.rows: dict[str, tuple[_Row, ...] | None] = {}
        """Shape → the rows that could know it; None where its lines do not even say which process wrote them."""

    def of(self, text: str) -> Iterator[tuple[_Line, list[_Match], Sequence[str]]]:
        """(line, its matches, the few lines before) of each line that tells something; in order."""
        seen: dict[tuple[str, ...], int] = {}
        times: collections.Counter[str] = collections.Counter()
        passed: set[str] = set()
        before: collections.deque[str] = collections.deque(maxlen=_FRAME_LINES)
        for number, raw in _numbered(text):
            same = raw
            if raw in passed:
                before.append(raw)
                continue
            shape = _shape(raw)
            rows = self._rows_of(shape)
            if rows is not None:
                times[shape] += 1
                if times[shape] > self.MAX_REPEATS:
                    same = _PASSING.sub("", raw)
            if rows is not None and same not in passed:
                stripped = _strip(raw)
                found = _matches_in(stripped[0], rows)
                key = (shape, *(s.id for s, _ in found))
                count = seen[key] = seen.get(key, 0) + 1
                if count > self.MAX_REPEATS:
                    passed |= {raw, same}
                else:
                    line = _line(number, stripped, before[-1] if before else "", raw)
                    yield line, [] if line.is_context else [_refined(_Match(s, line, g)) for s, g in found], before
            before.append(raw)

    def kind(self, raw: str) -> str:
        """`root`, or the kind of a line's least consequential row; empty where none but a note knows it."""
        rows = self._rows_of(_shape(raw))
        found = _matches_in(_strip(raw)[0], rows) if rows else []
        return min((s.kind for s, _ in found if s.kind != "note"), key=_ORDER.__getitem__, default="")

    def _rows_of(self, shape: str) -> tuple[_Row, ...] | None:
        if shape not in self.rows:
            rows = _candidates(_ANSI.sub("", shape) if "\x1b" in shape else shape)
            self.rows[shape] = rows if rows or any(word in shape for word in _WHO) else None
        return self.rows[shape]


def _line(number: int, stripped: tuple[str, int | None, str | None], previous: str, raw: str) -> _Line:
    text, rank, host = stripped
    time_s = _time_s(text)
    if time_s is None and raw.startswith("20"):
        time_s = _time_s(raw)
    level = _PLOG.match(text)
    # The line under `File "x.py", line 3` is the source: a raise with its text in it is not that error.
    is_code = text.lstrip().startswith('File "') or ('File "' in previous and not _EXCEPTION.match(text))
    if any(word in text for word in _WHO):
        own, named, card = _first_int(_RANK.search(text)), _HOST.match(text), _first_int(_CARD.search(text))
        rank, host = own if own is not None else rank, named[1] if named else host
    else:
        card = None
    is_quiet = level is not None and level["level"] in _QUIET
    return _Line(number, text, rank, card, host, time_s, is_context=is_code or is_quiet)


# --- matches in one log --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Match:
    signature: Signature
    line: _Line
    groups: Mapping[str, str]


def _needles(pattern: Any) -> tuple[str, ...]:
    """Texts of which every match of a parsed pattern holds at least one; () where nothing of the kind can be said."""
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


@dataclass(frozen=True)
class _Row:
    """A signature, and the texts of which each line that it knows holds one: finding a text is far cheaper than trying
    500 patterns."""

    signature: Signature
    needles: tuple[str, ...]


@functools.cache
def _rows() -> tuple[_Row, ...]:
    """All rows; those first that know a line by its words, and then those that read any code."""
    rows = []
    for s in sorted(signatures(), key=lambda s: s.is_generic):
        texts = [] if s.look else [n for p in s.patterns for n in _needles(_parser.parse(p.pattern))]
        rows.append(_Row(s, tuple(dict.fromkeys(texts))))
    return tuple(rows)


@functools.cache
def _index() -> tuple[tuple[str, int, str], ...]:
    """(text with all digits 1, as in a shape; place of its row; text)."""
    return tuple((n.translate(_DIGITS), place, n) for place, row in enumerate(_rows()) for n in row.needles)


@functools.cache
def _looks() -> tuple[tuple[re.Pattern[str], int], ...]:
    return tuple((r.signature.look, place) for place, r in enumerate(_rows()) if r.signature.look is not None)


def _candidates(shape: str) -> tuple[_Row, ...]:
    """The rows that could know lines of a shape, each with those of its texts that may be in them."""
    places: dict[int, tuple[str, ...]] = {place: () for look, place in _looks() if look.search(shape)}
    for needle, place, text in _index():
        if needle in shape:
            places[place] = (*places.get(place, ()), text)
    return tuple(_Row(_rows()[place].signature, places[place]) for place in sorted(places))


def _matches_in(text: str, rows: Iterable[_Row]) -> list[tuple[Signature, dict[str, str]]]:
    """(signature, its groups) of the rows that know a line; one that reads any code, where no other but a wrapper does."""
    found: list[tuple[Signature, dict[str, str]]] = []
    is_known = False
    for row in rows:
        signature = row.signature
        if (is_known and signature.is_generic) or (row.needles and not any(n in text for n in row.needles)):
            continue
        m = next((m for pattern in signature.patterns if (m := pattern.search(text))), None)
        if m is not None:
            found.append((signature, {k: v for k, v in m.groupdict().items() if v is not None}))
            is_known = is_known or (not signature.is_generic and signature.kind != "wrapper")
    return found


def _refined(match: _Match) -> _Match:
    if match.signature.refine == "oom" and _others_hold_the_card(match.groups):
        return replace(match, signature=_by_id()["oom-npu-others"])
    if match.signature.refine == "positions" and int(match.groups["length"]) <= int(match.groups["positions"]):
        return replace(match, signature=_by_id()["shape-mismatch"], groups={})
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


_TRACEBACK = "Traceback (most recent call last)"
_NOT_ERRORS = {
    "SystemExit",
    "KeyboardInterrupt",
    "ChildFailedError",
    "SignalException",
    "BrokenPipeError",
    "GeneratorExit",
}
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
        "en": "the launcher has no advice for this text; read the traceback in the log, its last frame first.",
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


_FRAME = re.compile(r'^\s*File "[^"]*", line \d+, in ')
_TRACEBACK_MARKS = (_TRACEBACK, "Exception ignored in", "Error in atexit", "direct cause", ", line ")


def _python_fallback(text: str, reader: _Lines) -> _Match | None:
    """The last uncaught exception whose own message no signature knows.

    Of exceptions chained by "direct cause" the first is meant; of those raised "during handling" the last. Frames whose
    first line, `Traceback (most recent call last):`, was cut off are an exception too, where one ends them.
    """
    if not any(mark in text for mark in (_TRACEBACK, ", line ")):
        return None
    lines = list(_numbered(text))
    found: _Match | None = None
    index, is_cause = 0, False
    while index < len(lines):
        raw = lines[index][1]
        if not any(mark in raw for mark in _TRACEBACK_MARKS):
            index += 1
            continue
        stripped, rank, host = _strip(raw)
        if stripped.startswith(("Exception ignored in", "Error in atexit")):
            index = _after_traceback(lines, index + 1)
            continue
        is_cut = _FRAME.match(stripped) is not None
        if not stripped.startswith(_TRACEBACK) and not is_cut:
            is_cause = is_cause or "direct cause of the following exception" in stripped
            index += 1
            continue
        end = _after_traceback(lines, index)
        if is_cause:  # a wrapper raised around the exception before it; the one before is the one that counts
            is_cause = False
        elif exception := _exception_in([t for _, t in lines[index:end]], is_cut):
            until = next((n for n in range(end, min(end + 8, len(lines))) if _TRACEBACK in lines[n][1]), end + 8)
            kinds = [kind for _, t in lines[end - 1 : until] if (kind := reader.kind(t))]
            if not kinds:
                found = _unknown(exception, lines[end - 1][0], rank, host, lines[end][1] if end < len(lines) else "")
            elif "root" in kinds:
                found = None
        index = end
    return found


def _exception_in(body: Sequence[str], is_cut: bool) -> tuple[re.Match[str], str] | None:
    """The exception that ends a traceback and where it was raised; None for one that is no error, and for none at all."""
    m = _EXCEPTION.match(_strip(body[-1])[0].strip())
    if m is None or m["type"].rpartition(".")[2] in _NOT_ERRORS:
        return None
    if is_cut and not m["type"].endswith(("Error", "Exception", "Interrupt", "Exit")):
        return None  # a stack that somebody printed, and then another word
    frame = next((f for t in reversed(body) if (f := _strip(t)[0]).lstrip().startswith('File "')), "")
    return m, re.sub(r'^\s*File "([^"]*)", line (\d+).*', r"\1:\2", frame)


def _unknown(exception: tuple[re.Match[str], str], number: int, rank: int | None, host: str | None, after: str) -> _Match:  # fmt: skip
    m, where = exception
    line = _Line(number, m[0][:_MAX_LINE], rank, None, host, None)
    fields = {"type": m["type"], "message": (m["message"] or "").strip()[:300], "where": where}
    hint = _strip(after)[0]
    is_ours = m["type"].endswith("LaunchError") and hint.startswith("  fix: ")
    fields |= {"hint": hint.removeprefix("  fix: ")} if is_ours else {}
    return _Match(LAUNCH if is_ours else PYTHON, line, {k: v for k, v in fields.items() if v})


def _after_traceback(lines: Sequence[tuple[int, str]], start: int) -> int:
    """Index after the exception line of the traceback at `start`: frames are indented, the exception is not."""
    index = start + 1
    while index < len(lines):
        text = _strip(lines[index][1])[0]
        if text and not text[0].isspace() and not text.startswith("File "):
            return index + 1
        index += 1
    return index


@dataclass(frozen=True)
class _Source:
    """One log and what is known of where it was written."""

    name: str
    text: str
    rank: int | None = None
    host: str | None = None
    card: int | None = None
    time_s: float | None = None
    """When the rank failed, where a record says so."""
    clock_s: float | None = None
    """The same on the host's monotonic clock, which orders the ranks of one host exactly."""


def _events(matches: Sequence[_Match]) -> Iterator[list[_Match]]:
    """Matches in runs that tell of one event each."""
    event: list[_Match] = []
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


# --- verdicts ------------------------------------------------------------------------------------------------------


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


_OPTIONAL = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]")
_FIELD = re.compile(r"\{(\w+)\}")


def _fill(template: str, fields: Mapping[str, str]) -> str:
    """`{name}` from the log's own words. `[[words {name}|other words]]` is the first that the log fills, or nothing: so
    every field stands in brackets, but those that each of the row's patterns fills. Other braces are text."""

    def chosen(m: re.Match[str]) -> str:
        options = m[1].split("|")
        return next((o for o in options if all(fields.get(n) for n in _FIELD.findall(o))), "")

    count = 1
    while count:
        template, count = _OPTIONAL.subn(chosen, template)
    return _FIELD.sub(lambda m: fields.get(m[1], ""), template)


def _context(event: Sequence[_Match], anywhere: _Context) -> _Context:
    """Rank, card and host that the lines of an event, else any line of the log, name for the process that wrote them."""
    near = _named([m.line for m in event])
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


def _named(lines: Sequence[_Line]) -> _Context:
    return _Context(
        next((x.rank for x in lines if x.rank is not None), None),
        next((x.card for x in lines if x.card is not None), None),
        next((x.host for x in lines if x.host), None),
    )


def _int_or_none(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 9 else None


def _culprits(event: Sequence[_Match], chosen: _Match) -> tuple[tuple[int, ...], int | None, str | None]:
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


def _missing_ranks(text: str, event: Sequence[_Match]) -> tuple[int, ...]:
    """Ranks that did not connect: rank 0 lists those that did, and how many it waits for."""
    connected = {int(r) for m in event for r in re.findall(r"\d{1,18}", m.groups.get("connected", ""))}
    need = _NEED.search(text)
    if not connected or need is None or int(need[1]) > 100_000:
        return ()
    return tuple(r for r in range(int(need[1])) if r not in connected)


def _span(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks[:16])) + (f" (and {len(ranks) - 16} more)" if len(ranks) > 16 else "")


_SHARED = frozenset({"kernel"})
"""Groups that one line of an event tells, and the text of another may name."""


def _verdict(source: _Source, event: Sequence[_Match], chosen: _Match, anywhere: _Context, lang: Lang) -> Verdict:
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


def _fields(source: _Source, event: Sequence[_Match], chosen: _Match, ranks: Sequence[int], lang: Lang) -> dict[str, str]:  # fmt: skip
    """What a signature's texts are filled from: its groups, what the lines behind it add, and what codes mean."""
    fields = {k: v for m in event for k, v in m.groups.items() if k in _SHARED}
    fields |= {k: v for m in event if m.signature is chosen.signature for k, v in m.groups.items()}
    fields |= chosen.groups
    if ranks:
        fields["ranks"] = fields["rank"] = _span(ranks)
    if fields.get("count", "").isdecimal() and int(fields["count"]) > 0:
        fields["last"] = str(int(fields["count"]) - 1)
    if chosen.signature.refine in ("cann", "acl", "hccl"):
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
    found: dict[str, str] = {}
    last = ""
    for raw in _slice(text, number, _MAX_BEHIND):
        line = _strip(raw)[0]
        if _TRACEBACK in line or line.lstrip().startswith("TraceBack"):
            break
        for name, pattern in _BEHIND.items():
            if (m := pattern.match(line)) and name not in found:
                found[name], last = m[1], name
                break
        else:
            if last in ("reason", "solution") and re.match(r"^\s+\d\.\s?\S", line):
                found[last] += " " + line.strip()
            else:
                last = ""
    return {name: words.rstrip(".。") for name, words in found.items() if not _NO_HELP.match(words)}


def _slice(text: str, number: int, count: int) -> list[str]:
    """`count` lines from the one after `number`."""
    at = -1
    for _ in range(number):
        at = text.find("\n", at + 1)
        if at < 0:
            return []
    return text[at + 1 : at + 1 + count * _MAX_LINE].split("\n")[:count]


def _explain_source(source: _Source, lang: Lang, reader: _Lines) -> list[Verdict]:
    """Every verdict in one log, the one that counts first."""
    lines: list[_Line] = []
    matches: list[_Match] = []
    for line, found_in_line, before in reader.of(source.text):
        lines.append(line)
        matches += [_in_its_frame(m, before) for m in found_in_line]
    if fallback := _python_fallback(source.text, reader):
        matches = sorted([*matches, fallback], key=lambda m: m.line.number)
    anywhere = _named(lines)
    found: list[tuple[tuple[int, int, int, int], Verdict]] = []
    told: set[str] = set()
    for number, event in enumerate(_events(matches)):
        best: dict[str, _Match] = {}
        for match in event:
            best.setdefault(match.signature.id, match)
            if len(match.groups) > len(best[match.signature.id].groups):
                best[match.signature.id] = match
        for match in best.values():
            if match.signature.id in told:  # the first event that tells of it counts
                continue
            key = (_ORDER[match.signature.kind], number, -match.signature.weight, match.line.number)
            found.append((key, _verdict(source, event, match, anywhere, lang)))
        told |= set(best)
    found.sort(key=lambda pair: pair[0])
    return [verdict for _, verdict in found]


_POSITIONS = re.compile(r"position|\bwpe\b", re.IGNORECASE)
_CALL = re.compile(r"\bself\.(?!_)\w+\(|super\(\)\.forward\(")


def _in_its_frame(match: _Match, before: Iterable[str]) -> _Match:
    """An index beyond an embedding is a position or a token: the innermost call of a module's part says which."""
    if match.signature.refine != "embedding":
        return match
    call = next((line for line in reversed(list(before)) if _CALL.search(line)), "")
    return replace(match, signature=_by_id()["positions"]) if _POSITIONS.search(call) else match


def explain_text(text: str, lang: Lang = "en", *, name: str = "", rank: int | None = None) -> list[Verdict]:
    """Verdicts for one log, the one that counts first; [] where nothing in it is known to be wrong."""
    report = _rank_verdicts(_by_rank(_Source(name, text, rank=rank)), set(), lang, name)
    return [report.verdict, *report.others] if report.verdict else []


_RANK_PREFIX = re.compile(
    r"^(?:\x1b\S{1,8}|[\w.-]{1,64}: )?(?:\[(?:rank|default|local_rank )?|\(\w+ rank=)(\d{1,6})\b", re.MULTILINE
)


def _by_rank(source: _Source) -> list[_Source]:
    """A log in which several ranks write, such as a console's, as one log per rank. Line numbers stay."""
    if len(set(_RANK_PREFIX.findall(source.text))) < 2:
        return [source]
    lines = source.text.split("\n")
    ranks = [_strip(line[:120])[1] for line in lines]
    named = {r for r in ranks if r is not None}
    if len(named) < 2:
        return [source]
    texts: dict[int | None, list[str]] = {rank: [] for rank in (None, *sorted(named)[:MAX_RANKS])}
    behind = dict.fromkeys(texts, 0)
    for number, (line, rank) in enumerate(zip(lines, ranks, strict=True)):
        if rank in texts:  # empty lines keep the numbers
            texts[rank].append("\n" * (number - behind[rank]) + line)
            behind[rank] = number
    return [replace(source, text="".join(parts), rank=rank) for rank, parts in texts.items()]


# --- whole runs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What a run directory, a plog folder or a text tells."""

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


def read_capped(path: Path) -> str:
    """A file's text; of a huge one its beginning and its end. Whatever cannot be read is no text."""
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            if size <= _HEAD_BYTES + _TAIL_BYTES:
                data = f.read(_HEAD_BYTES + _TAIL_BYTES)
            else:
                head = f.read(_HEAD_BYTES)
                f.seek(size - _TAIL_BYTES)
                data = head + b"\n" + f.read(_TAIL_BYTES)
    except OSError:
        return ""
    return data.decode("utf-8", errors="replace")


_RANK_LOG = re.compile(r"^rank_(\d{1,6})(?:\.stdout|\.stderr)?\.log$")
_RANK_ERROR = re.compile(r"^error_(\d{1,6}|prepare)\.json$")
_PLOG_NAME = re.compile(r"^plog-(\d{1,9})_\d+\.log$")
_ENTRY = re.compile(r"Entry-HcclCommInitRootInfo\w*:ranks\[\d+\], rank\[(\d{1,6})\]")
_LOG_SUFFIXES = {".log", ".txt", ".out", ".err"}


def _values(data: Any, keys: Sequence[str], depth: int = 0) -> Any:
    """The first value under one of `keys`, at any depth of a JSON document: launchers nest their records differently."""
    if depth > 8:
        return None
    if isinstance(data, dict):
        for key in keys:
            if data.get(key) not in (None, ""):
                return data[key]
        children: Iterable[Any] = data.values()
    elif isinstance(data, list):
        children = data
    else:
        return None
    for child in children:
        if (value := _values(child, keys, depth + 1)) is not None:
            return value
    return None


def _json_in(path: Path) -> Any:
    """The value in a file; None, in which nothing is found, where it is no JSON."""
    try:
        return json.loads(read_capped(path))
    except (ValueError, RecursionError):
        return None


def _error_record(path: Path, rank: int | None) -> _Source | None:
    """error_<r>.json, in our shape or torch elastic's: the traceback as text, with when it happened."""
    if (data := _json_in(path)) is None:
        return None
    text = _values(data, ("traceback", "py_callstack"))
    message = _values(data, ("message", "error"))
    message = message if isinstance(message, str) else _values(message, ("message",))
    text = "\n".join(t for t in (text, message) if isinstance(t, str))
    exit_code = _values(data, ("process_exit_code", "exitcode", "exit_code"))
    if isinstance(exit_code, int) and exit_code < 0:
        text += f"\nrank {rank} ended with exit code {exit_code}"
    stamp = _values(data, ("time", "time_s", "timestamp", "wall_time"))
    time_s: float | None
    try:
        time_s = float(stamp)
    except (TypeError, ValueError):
        time_s = _time_s(stamp) if isinstance(stamp, str) else None
    clock_ns = _values(data, ("time_ns",))
    clock_s = clock_ns / 1e9 if isinstance(clock_ns, int) and 0 < clock_ns < 1 << 63 else None
    host, card = _values(data, ("host", "hostname")), _values(data, ("card", "device_index", "device"))
    return _Source(
        path.name,
        text,
        rank,
        host if isinstance(host, str) else None,
        card if isinstance(card, int) else None,
        time_s,
        clock_s,
    )


def _failure(name: str, data: Any) -> _Source | None:
    """What is in failure.json: what the agent itself said, such as a rank that has not moved."""
    failure = failure_in(data)
    if failure is None or failure.what is None:
        return None
    return _Source(name, failure.what, failure.rank, failure.host or None)


def _with_wall_time(records: Mapping[int | None, _Source], folder: Path) -> dict[int | None, _Source]:
    """Records whose monotonic clock is set to the wall clock, by the file that was written soonest after its error."""
    offsets = [
        (folder / r.name).stat().st_mtime - r.clock_s
        for r in records.values()
        if r.clock_s is not None and (folder / r.name).exists()
    ]
    if not offsets:
        return dict(records)
    return {
        rank: replace(r, time_s=r.clock_s + min(offsets)) if r.clock_s is not None else r for rank, r in records.items()
    }


def _exit_codes(path: Path) -> dict[int, int]:
    """rank → exit status, from a run's events.jsonl or failure.json: signals leave no text of their own."""
    codes: dict[int, int] = {}
    text = read_capped(path)
    for line in text.splitlines() if path.suffix == ".jsonl" else [text]:
        if "code" not in line:
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        rank, code = _values(event, ("rank",)), _values(event, ("process_exit_code", "exitcode", "exit_code"))
        if isinstance(rank, int) and isinstance(code, int) and code:
            codes.setdefault(rank, code)
    return codes


def _latest_attempt(path: Path) -> Path:
    attempts = [
        (int(m[1]), p) for p in path.iterdir() if p.is_dir() and (m := re.fullmatch(r"attempt_(\d{1,6})", p.name))
    ]
    return max(attempts)[1] if attempts else path


def _folder_sources(path: Path) -> tuple[list[_Source], set[int]]:
    """Logs of a folder, each with its rank where name or content gives it, and all ranks that have a log."""
    attempt = _latest_attempt(path)
    attempts = [attempt, *(_latest_attempt(node) for node in sorted(path.glob("node_*")))]
    files = [f for one in attempts for f in sorted(p for p in one.rglob("*") if p.is_file())[:_MAX_FILES]]
    if attempt != path:
        files += sorted(p for p in path.rglob("plog-*.log") if p.is_file())[:_MAX_FILES]
        files += [p for p in path.iterdir() if p.is_file() and p.suffix in _LOG_SUFFIXES]
    sources: list[_Source] = []
    records: dict[int | None, _Source] = {}
    for file in files:
        name = str(file.relative_to(path))
        if m := _RANK_ERROR.match(file.name):
            rank = None if m[1] == "prepare" else int(m[1])
            if record := _error_record(file, rank):
                records[rank] = replace(record, name=name)
        elif m := _RANK_LOG.match(file.name):
            sources.append(_Source(name, read_capped(file), int(m[1])))
        elif m := _PLOG_NAME.match(file.name):
            text = read_capped(file)
            entry = _ENTRY.search(text)
            sources.append(_Source(name, text, int(entry[1]) if entry else None))
        elif file.suffix in _LOG_SUFFIXES:
            sources.append(_Source(name, read_capped(file)))
    records = _with_wall_time(records, path)
    ranks = {r for r in (*(s.rank for s in sources), *records) if r is not None}
    pids = {int(p): s.rank for s in sources if s.rank is not None for p in _PID.findall(s.text[-200_000:])}
    sources = [_with_record(s, records, pids) for s in sources]
    told = path / "failure.json"
    if told.is_file() and (failure := _failure(told.name, _json_in(told))):
        sources.append(failure)
    for name in ("events.jsonl", "failure.json"):
        codes = _exit_codes(path / name) if (path / name).is_file() else {}
        sources += [_Source(name, f"rank {r} ended with exit code {c}", r) for r, c in codes.items() if c < 0]
    return [*sources, *records.values()], ranks


def _with_record(source: _Source, records: Mapping[int | None, _Source], pids: Mapping[int, int | None]) -> _Source:
    """A log with the rank of its pid, and with host, card and time from the rank's error record."""
    rank = source.rank
    if rank is None and (m := _PLOG_NAME.match(Path(source.name).name)):
        rank = pids.get(int(m[1]))
    record = records.get(rank) if rank is not None else None
    if record is None:
        return replace(source, rank=rank)
    return replace(source, rank=rank, host=record.host, card=record.card, time_s=record.time_s)


def _rank_verdicts(sources: Sequence[_Source], ranks: set[int], lang: Lang, path: str) -> Report:
    found: list[tuple[tuple[int, float, int, int], Verdict]] = []
    troubled: set[int] = set()
    reader, has_one = _Lines(), len({s.name for s in sources}) == 1
    for order, source in enumerate(sources):
        verdicts = _explain_source(source, lang, reader)
        if source.rank is not None and any(v.kind != "note" for v in verdicts):
            troubled.add(source.rank)
        for place, verdict in enumerate(verdicts):
            when = verdict.time_s if verdict.time_s is not None else float("inf")
            # A later error of the same log is never earlier than its first one.
            line = verdict.line_number if has_one else order
            found.append(((_ORDER[verdict.kind], when, place, line), verdict))
    found.sort(key=lambda pair: pair[0])
    verdicts = _without_generic(list(_unique(v for _, v in found)))
    best = verdicts[0] if verdicts else None
    silent: tuple[int, ...] = ()
    if best is not None and best.kind in ("peer", "consequence") and best.rank is None and not best.host:
        silent = tuple(sorted(ranks - troubled))
    return Report(path, best, tuple(verdicts[1:]), silent, len(sources), len(ranks))


def _unique(verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
    seen: set[tuple[str, int | None]] = set()
    for verdict in verdicts:
        if (verdict.id, verdict.rank) not in seen:
            seen.add((verdict.id, verdict.rank))
            yield verdict


def _without_generic(verdicts: list[Verdict]) -> list[Verdict]:
    """A bare traceback gives way to a known error of the same rank: it is usually the same failure in Python's words."""
    known = {v.rank for v in verdicts if v.kind == "root" and v.id != PYTHON.id}
    return [v for v in verdicts if v.id != PYTHON.id or v.rank not in known]


def explain_path(path: str | Path, lang: Lang = "en") -> Report:
    """Explain a run directory, an attempt, a folder of logs or plogs, one file, or `-` for standard input."""
    if str(path) == "-":
        return _rank_verdicts(
            _by_rank(_Source("-", sys.stdin.buffer.read(_HEAD_BYTES + _TAIL_BYTES).decode(errors="replace"))),
            set(),
            lang,
            "-",
        )
    path = Path(path)
    if path.is_file():
        m = _RANK_LOG.match(path.name) or _RANK_ERROR.match(path.name)
        rank = int(m[1]) if m and m[1].isdigit() else None
        record = _error_record(path, rank) if path.suffix == ".json" else None
        source = record or _Source(path.name, read_capped(path), rank)
        sources = [source] if record else _by_rank(source)
        return _rank_verdicts(sources, {s.rank for s in sources if s.rank is not None}, lang, str(path))
    if not path.is_dir():
        raise LaunchError(
            f"{path}: no such file or folder", hint="give a run directory, a plog folder, a log file, or - for stdin"
        )
    sources, ranks = _folder_sources(path)
    if not sources:
        raise LaunchError(
            f"{path}: no logs in it", hint="expected attempt_<n>/rank_<r>.log, plog-*.log or other *.log files"
        )
    report = _rank_verdicts(sources, ranks, lang, str(path))
    return report if report.verdict is not None else replace(report, verdict=_failures_own(path / "failure.json", lang))


def _failures_own(path: Path, lang: Lang) -> Verdict | None:
    """What the agent or the launcher said of a failure, such as a process killed, that left its trace in no log."""
    data = _json_in(path)
    said, hint = _failure(path.name, data), _values(data, ("hint",))
    if said is None:
        return None
    return Verdict(
        FAILURE,
        "root",
        "system",
        cause=said.text,
        fix=hint if isinstance(hint, str) and hint else _WORDS[lang]["no_hint"],
        source="ascend-launch",
        line=said.text.partition("\n")[0],
        file=said.name,
        rank=said.rank,
        host=said.host,
    )


# --- words ---------------------------------------------------------------------------------------------------------


def language() -> Lang:
    """The reader's language, of the two that the table has."""
    return "zh" if messages.language().lower().startswith("zh") else "en"


_WORDS = {
    "en": {
        "where": "where",
        "rank": "rank",
        "host": "host",
        "card": "card",
        "cause": "cause",
        "fix": "fix",
        "source": "source",
        "said_by": "seen by rank",
        "none": "no known error in {files} log files",
        "suspects": "silent ranks, look there first",
        "also": "also seen",
        "no_hint": "no log tells more; read the ranks' logs beside it, the last lines first.",
        "ranks": "ranks",
    },
    "zh": {
        "where": "位置",
        "rank": "rank",
        "host": "主机",
        "card": "卡",
        "cause": "原因",
        "fix": "处理",
        "source": "来源",
        "said_by": "报告者 rank",
        "none": "{files} 个日志文件中没有已知错误",
        "suspects": "没有任何报错的 rank，请先查看",
        "also": "另外还有",
        "no_hint": "日志中没有更多信息；请从最后几行开始查看各 rank 的日志。",
        "ranks": "rank",
    },
}


def render_text(report: Report, lang: Lang = "en") -> str:
    """The report for a terminal, without colour."""
    words, verdict = _WORDS[lang], report.verdict
    if verdict is None:
        return words["none"].format(files=report.num_files)
    places = [
        f"{words['ranks']} {_span(verdict.ranks)}"
        if verdict.ranks
        else (f"{words['rank']} {verdict.rank}" if verdict.rank is not None else "")
    ]
    places += [
        f"{words['host']} {verdict.host}" if verdict.host else "",
        f"{words['card']} {verdict.card}" if verdict.card is not None else "",
    ]
    out = [f"[{verdict.id}] {verdict.line}"]
    where = ", ".join(p for p in places if p)
    if verdict.reported_by is not None:
        where = f"{where} ({words['said_by']} {verdict.reported_by})".strip()
    location = f"{verdict.file}:{verdict.line_number}" if verdict.line_number else verdict.file
    out += [f"  {words['where']}: " + "; ".join(p for p in (where, location) if p)]
    out += [
        f"  {words['cause']}: {verdict.cause}",
        f"  {words['fix']}: {verdict.fix}",
        f"  {words['source']}: {verdict.source}",
    ]
    if report.suspects:
        out.append(f"  {words['suspects']}: {_span(report.suspects)}")
    others = [v.id for v in report.others if v.kind != "wrapper"]
    if others:
        out.append(f"  {words['also']}: " + ", ".join(dict.fromkeys(others)))
    return "\n".join(out)


_KINDS = {
    "root": "the failure itself",
    "peer": "this rank waited for, or lost, another one",
    "consequence": "follows from a failure elsewhere",
    "wrapper": "a label around the real message",
    "note": "harmless",
}
_AREAS = (
    ("environment", "Environment and versions", "环境与版本"),
    ("device", "Devices and driver", "设备与驱动"),
    ("memory", "Memory", "内存与显存"),
    ("communication", "Communication", "通信"),
    ("operator", "Operators", "算子"),
    ("model", "Model and checkpoint", "模型与检查点"),
    ("data", "Data", "数据"),
    ("deepspeed", "DeepSpeed", "DeepSpeed"),
    ("system", "System", "系统"),
    ("python", "Python", "Python"),
)


def _shown(template: str) -> str:
    """A text with its fields, as it reads where the log tells all of them."""
    count = 1
    while count:
        template, count = _OPTIONAL.subn(lambda m: m[1].partition("|")[0], template)
    return template


def markdown() -> str:
    """docs/troubleshooting.md: the whole table, by area, in both languages."""
    out = [
        "# Troubleshooting 故障排查",
        "",
        "Made from `launcher/signatures.yaml` by `tools/troubleshooting_docs.py`; do not edit by hand. `ascend-launch explain PATH`"
        " reads a run directory, a plog folder, a log or `-`, and names the one of these that counts, with rank, host and card.",
        "",
        f"{len(signatures())} signatures. Words in braces are filled from the log.",
    ]
    for area, english, chinese in _AREAS:
        rows = [s for s in signatures() if s.area == area]
        title = english if english == chinese else f"{english} {chinese}"
        out += ["", f"## {title}"]
        for s in rows:
            kind = "" if s.kind == "root" else f" ({_KINDS[s.kind]})"
            out += [
                "",
                f"### {s.id}{kind}",
                "",
                f"`{s.examples[0].replace('`', chr(39))[:160]}`",
                "",
                f"- {_shown(s.cause['en'])}",
                f"- **Fix:** {_shown(s.fix['en'])}",
                f"- {_shown(s.cause['zh'])}",
                f"- **处理：** {_shown(s.fix['zh'])}",
                f"- Source: {s.source}",
            ]
    return "\n".join(out) + "\n"
