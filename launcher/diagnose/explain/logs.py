"""The logs in a folder, and whose each is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launcher.diagnose.explain.lines import strip
from launcher.diagnose.explain.records import (
    difference_record,
    error_record,
    exit_codes,
    failure_record,
    json_in,
    with_wall_time,
)
from launcher.diagnose.explain.source import Source, read_capped
from launcher.messages import Message

_MAX_FILES = 4096
MAX_RANKS = 64
"""Of a console's log in which more ranks write, the first ones are distinguished."""


_PID = re.compile(r"\bPID: ?(\d{1,9})")


_RANK_PREFIX = re.compile(
    r"^(?:\x1b\S{1,8}|[\w.-]{1,64}: )?(?:\[(?:rank|default|local_rank )?|\(\w+ rank=)(\d{1,6})\b", re.MULTILINE
)


def by_rank(source: Source) -> list[Source]:
    """A log in which several ranks write, such as a console's, as one log per rank. Line numbers stay."""
    if len(set(_RANK_PREFIX.findall(source.text))) < 2:
        return [source]
    lines = source.text.split("\n")
    ranks = [strip(line[:120])[1] for line in lines]
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


RANK_LOG = re.compile(r"^rank_(\d{1,6})(?:\.stdout|\.stderr)?\.log$")
RANK_ERROR = re.compile(r"^error_(\d{1,6}|prepare)\.json$")
_PLOG_NAME = re.compile(r"^plog-(\d{1,9})_\d+\.log$")
_ENTRY = re.compile(r"Entry-HcclCommInitRootInfo\w*:ranks\[\d+\], rank\[(\d{1,6})\]")
_LOG_SUFFIXES = {".log", ".txt", ".out", ".err"}


def _latest_attempt(path: Path) -> Path:
    attempts = [
        (int(m[1]), p) for p in path.iterdir() if p.is_dir() and (m := re.fullmatch(r"attempt_(\d{1,6})", p.name))
    ]
    return max(attempts)[1] if attempts else path


def folder_sources(path: Path) -> tuple[list[Source], set[int]]:
    """Logs of a folder, each with its rank where name or content gives it, and all ranks that have a log."""
    attempt = _latest_attempt(path)
    attempts = [attempt, *(_latest_attempt(node) for node in sorted(path.glob("node_*")))]
    files = [f for one in attempts for f in sorted(p for p in one.rglob("*") if p.is_file())[:_MAX_FILES]]
    if attempt != path:
        files += sorted(p for p in path.rglob("plog-*.log") if p.is_file())[:_MAX_FILES]
        files += [p for p in path.iterdir() if p.is_file() and p.suffix in _LOG_SUFFIXES]
    sources: list[Source] = []
    records: dict[int | None, Source] = {}
    for file in files:
        name = str(file.relative_to(path))
        if m := RANK_ERROR.match(file.name):
            rank = None if m[1] == "prepare" else int(m[1])
            if record := error_record(file, rank):
                records[rank] = replace(record, name=name)
        elif m := RANK_LOG.match(file.name):
            sources.append(Source(name, read_capped(file), int(m[1])))
        elif m := _PLOG_NAME.match(file.name):
            text = read_capped(file)
            entry = _ENTRY.search(text)
            sources.append(Source(name, text, int(entry[1]) if entry else None))
        elif file.suffix in _LOG_SUFFIXES:
            sources.append(Source(name, read_capped(file)))
    records = with_wall_time(records, path)
    ranks = {r for r in (*(s.rank for s in sources), *records) if r is not None}
    pids = {int(p): s.rank for s in sources if s.rank is not None for p in _PID.findall(s.text[-200_000:])}
    sources = [_with_record(s, records, pids) for s in sources]
    failure_path = path / "failure.json"
    if failure_path.is_file():
        data = json_in(failure_path)
        made = (failure_record(failure_path.name, data), difference_record(failure_path.name, data))
        sources += [source for source in made if source is not None]
    for name in ("events.jsonl", "failure.json"):
        codes = exit_codes(path / name) if (path / name).is_file() else {}
        sources += [
            Source(name, Message("rank {row} ended with exit code {choice}", row=r, choice=c), r)
            for r, c in codes.items()
            if c < 0
        ]
    return [*sources, *records.values()], ranks


def _with_record(source: Source, records: Mapping[int | None, Source], pids: Mapping[int, int | None]) -> Source:
    """A log with the rank of its pid, and with host, card and time from the rank's error record."""
    rank = source.rank
    if rank is None and (m := _PLOG_NAME.match(Path(source.name).name)):
        rank = pids.get(int(m[1]))
    record = records.get(rank) if rank is not None else None
    if record is None:
        return replace(source, rank=rank)
    return replace(source, rank=rank, host=record.host, card=record.card, time_s=record.time_s)
