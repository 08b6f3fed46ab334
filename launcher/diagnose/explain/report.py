"""Why did it fail? Log text → cause, fix, source. The knowledge is in signatures/; this file finds the line that counts.

Two rules decide. Within one log the earliest event wins, and inside an event the text that says most. Across ranks a
real error beats a rank that merely waited for another (HCCL's timeouts), and that beats a rank that noticed its peers
were gone (watchdogs, closed sockets): those follow from a failure elsewhere, however loudly and early they are printed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from launcher.diagnose.explain.lines import Line
from launcher.diagnose.explain.logs import RANK_ERROR, RANK_LOG, by_rank, folder_sources
from launcher.diagnose.explain.matches import Match, events
from launcher.diagnose.explain.python_errors import python_fallback
from launcher.diagnose.explain.reading import Lines
from launcher.diagnose.explain.records import error_record, failure_record, json_in, values
from launcher.diagnose.explain.signatures import FAILURE, ORDER, PYTHON, Lang, by_id
from launcher.diagnose.explain.source import HEAD_BYTES, TAIL_BYTES, Source, read_capped
from launcher.diagnose.explain.verdicts import Report, Verdict, named_fields, verdict_of
from launcher.diagnose.explain.words import WORDS
from launcher.errors import LaunchError


def _explain_source(source: Source, lang: Lang, reader: Lines) -> list[Verdict]:
    """Every verdict in one log, the one that counts first."""
    lines: list[Line] = []
    matches: list[Match] = []
    for line, line_matches, before in reader.of(source.text):
        lines.append(line)
        matches += [_in_its_frame(m, before) for m in line_matches]
    if fallback := python_fallback(source.text, reader):
        matches = sorted([*matches, fallback], key=lambda m: m.line.number)
    anywhere = named_fields(lines)
    ranked: list[tuple[tuple[int, int, int, int], Verdict]] = []
    seen: set[str] = set()
    for number, event in enumerate(events(matches)):
        best: dict[str, Match] = {}
        for match in event:
            best.setdefault(match.signature.id, match)
            if len(match.groups) > len(best[match.signature.id].groups):
                best[match.signature.id] = match
        for match in best.values():
            if match.signature.id in seen:  # its first event counts
                continue
            key = (ORDER[match.signature.kind], number, -match.signature.weight, match.line.number)
            ranked.append((key, verdict_of(source, event, match, anywhere, lang)))
        seen |= set(best)
    ranked.sort(key=lambda pair: pair[0])
    return [verdict for _, verdict in ranked]


_POSITIONS = re.compile(r"position|\bwpe\b", re.IGNORECASE)
_CALL = re.compile(r"\bself\.(?!_)\w+\(|super\(\)\.forward\(")


def _in_its_frame(match: Match, before: Iterable[str]) -> Match:
    """An index beyond an embedding is a position or a token: the innermost call of a module's part says which."""
    if match.signature.refine != "embedding":
        return match
    call = next((line for line in reversed(list(before)) if _CALL.search(line)), "")
    return replace(match, signature=by_id()["positions"]) if _POSITIONS.search(call) else match


def explain_text(text: str, lang: Lang = "en", *, name: str = "", rank: int | None = None) -> list[Verdict]:
    """Verdicts for one log, the one that counts first; [] where nothing in it is known to be wrong."""
    report = _rank_verdicts(by_rank(Source(name, text, rank=rank)), set(), lang, name)
    return [report.verdict, *report.others] if report.verdict else []


def _rank_verdicts(sources: Sequence[Source], ranks: set[int], lang: Lang, path: str) -> Report:
    ranked: list[tuple[tuple[int, float, int, int], Verdict]] = []
    troubled: set[int] = set()
    reader, has_one = Lines(), len({s.name for s in sources}) == 1
    for order, source in enumerate(sources):
        verdicts = _explain_source(source, lang, reader)
        if source.rank is not None and any(v.kind != "note" for v in verdicts):
            troubled.add(source.rank)
        for place, verdict in enumerate(verdicts):
            when = verdict.time_s if verdict.time_s is not None else float("inf")
            # A later error of the same log is never earlier than its first one.
            line = verdict.line_number if has_one else order
            ranked.append(((ORDER[verdict.kind], when, place, line), verdict))
    ranked.sort(key=lambda pair: pair[0])
    verdicts = _without_generic(list(_unique(v for _, v in ranked)))
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
    """A bare traceback gives way to a known error of the same rank: it is usually the same failure seen from Python."""
    known = {v.rank for v in verdicts if v.kind == "root" and v.id != PYTHON.id}
    return [v for v in verdicts if v.id != PYTHON.id or v.rank not in known]


def explain_path(path: str | Path, lang: Lang = "en") -> Report:
    """Explain a run directory, an attempt, a folder of logs or plogs, one file, or `-` for standard input."""
    if str(path) == "-":
        return _rank_verdicts(
            by_rank(Source("-", sys.stdin.buffer.read(HEAD_BYTES + TAIL_BYTES).decode(errors="replace"))),
            set(),
            lang,
            "-",
        )
    path = Path(path)
    if path.is_file():
        m = RANK_LOG.match(path.name) or RANK_ERROR.match(path.name)
        rank = int(m[1]) if m and m[1].isdigit() else None
        record = error_record(path, rank) if path.suffix == ".json" else None
        source = record or Source(path.name, read_capped(path), rank)
        sources = [source] if record else by_rank(source)
        return _rank_verdicts(sources, {s.rank for s in sources if s.rank is not None}, lang, str(path))
    if not path.is_dir():
        raise LaunchError(
            "{path}: no such file or folder",
            hint="give a run directory, a plog folder, a log file, or - for stdin",
            path=path,
        )
    sources, ranks = folder_sources(path)
    if not sources:
        raise LaunchError(
            "{path}: no logs in it",
            hint="expected attempt_<n>/rank_<r>.log, plog-*.log or other *.log files",
            path=path,
        )
    report = _rank_verdicts(sources, ranks, lang, str(path))
    return report if report.verdict is not None else replace(report, verdict=_failures_own(path / "failure.json", lang))


def _failures_own(path: Path, lang: Lang) -> Verdict | None:
    """What the agent or the launcher recorded of a failure, such as a process killed, that left its trace in no log."""
    data = json_in(path)
    record, hint = failure_record(path.name, data), values(data, ("hint",))
    if record is None:
        return None
    return Verdict(
        FAILURE,
        "root",
        "system",
        cause=record.text,
        fix=hint if isinstance(hint, str) and hint else WORDS[lang]["no_hint"],
        source="ascend-launch",
        line=record.text.partition("\n")[0],
        file=record.name,
        rank=record.rank,
        host=record.host,
    )
