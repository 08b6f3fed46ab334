"""Lines of a log, without what loggers and schedulers put before them: time, host, rank and card."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

MAX_LINE = 4000
"""Characters of a line that are looked at; CANN's longest real line is about 1,500."""


FRAME_LINES = 24
"""Lines above an exception in which the call that led to it is looked for: torch puts ten of its own between."""


ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
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
PLOG = re.compile(r"^\[(?P<level>ERROR|WARNING|INFO|DEBUG|EVENT|TRACE)\] ?(?P<module>[A-Z_]+)\((?P<pid>\d{1,9}),")
QUIET = {"INFO", "DEBUG", "EVENT", "TRACE"}
_CANN_TIME = re.compile(r"\b(20\d\d)-(\d\d)-(\d\d)[-T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,3}))?")
RANK = re.compile(
    r"\bRankID:(-?\d{1,6})|\blocalUserrank\[(\d{1,6})\]|\brank(?:s|Num)\[\d+\],? ?rank\[(\d{1,6})\]|\brankId\[(\d{1,6})\]"
    r"|^\s*rank\s+: (\d{1,6}) \(local_rank"  # torch elastic's summary of the first failure
)
HOST = re.compile(r"^\s*host\s+: (\S+)\s*$")
CARD = re.compile(
    r"\bDevice:(-?\d{1,4})\b|\bdevice(?:Logic)?Id\[(\d{1,4})\]|\bdevice_id=(\d{1,4})|\bdevice\(chipId:(\d{1,4})|"
    r"\bcomm error, device\[(\d{1,4})\]|\bdeviceLogicId:(\d{1,4})"
)
EXCEPTION = re.compile(r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*)(?:: (?P<message>.*))?$")


WHO = ("RankID:", "localUserrank[", "rankId[", "rank[", "rank ", "host ", "evice", "comm error")
"""One of these is in every line that names the rank, host or card of the process that wrote it."""


@dataclass(frozen=True)
class Line:
    """One line of a log, with what its own text says of where it comes from."""

    number: int
    text: str
    rank: int | None
    card: int | None
    host: str | None
    time_s: float | None
    is_context: bool = False
    """Only looked at for who wrote it: a level below warning, or source code inside a traceback."""


def first_int(match: re.Match[str] | None) -> int | None:
    if match is None:
        return None
    value = next((int(g) for g in match.groups() if g is not None), -1)
    return value if value >= 0 else None


def seconds_of(text: str) -> float | None:
    """Seconds since the epoch of the first full date in a line, read as local time as CANN writes it."""
    m = _CANN_TIME.search(text[:400])
    if m is None:
        return None
    y, mo, d, h, mi, s = (int(g) for g in m.groups()[:6])
    try:
        return time.mktime((y, mo, d, h, mi, s, 0, 0, -1)) + int((m[7] or "0").ljust(3, "0")) / 1000
    except (OverflowError, ValueError):
        return None


def strip(text: str) -> tuple[str, int | None, str | None]:
    """A line without its prefixes, and the rank and host they named."""
    rank, host = None, None
    text = ANSI.sub("", text[:MAX_LINE]) if "\x1b" in text else text[:MAX_LINE]
    for _ in range(4):
        prefixes = _PREFIXES.get(text[:1], ())
        if not prefixes and ": [rank" in text:
            prefixes = (_HOST_PREFIX,)
        elif not prefixes and " | " in text[:_MAX_PREFIX]:
            prefixes = (_SERVICE,)
        m = next((m for prefix in prefixes if (m := prefix.match(text))), None)
        if m is None:
            break
        groups = m.groupdict()
        rank = int(groups["rank"]) if groups.get("rank") else rank
        host = groups.get("host") or host
        text = text[m.end() :]
    return text, rank, host


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that hold anything. A progress bar's, which end in a bare carriage return, share one."""
    for number, line in enumerate(text.split("\n"), 1):
        if "\r" not in line:
            if line:
                yield number, line[:MAX_LINE]
        else:
            yield from ((number, part[:MAX_LINE]) for part in line.split("\r") if part)


_HEX = re.compile(r"0x[0-9a-fA-F]+")
DIGITS = str.maketrans("0123456789", "1111111111")


def shape_of(line: str) -> str:
    """A line without what its numbers say: times, addresses, ranks and steps make most of the lines of a log differ."""
    return (_HEX.sub("0x", line) if "0x" in line else line).translate(DIGITS)
