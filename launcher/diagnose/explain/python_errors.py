"""Python's tracebacks: the exception that no signature knows."""

from __future__ import annotations

import re
from collections.abc import Sequence

from launcher.diagnose.explain.lines import EXCEPTION, MAX_LINE, Line, numbered, strip
from launcher.diagnose.explain.matches import Match
from launcher.diagnose.explain.reading import Lines
from launcher.diagnose.explain.signatures import LAUNCH, PYTHON

TRACEBACK = "Traceback (most recent call last)"
_NOT_ERRORS = {
    "SystemExit",
    "KeyboardInterrupt",
    "ChildFailedError",
    "SignalException",
    "BrokenPipeError",
    "GeneratorExit",
}


_FRAME = re.compile(r'^\s*File "[^"]*", line \d+, in ')
_TRACEBACK_MARKS = (TRACEBACK, "Exception ignored in", "Error in atexit", "direct cause", ", line ")


def python_fallback(text: str, reader: Lines) -> Match | None:
    """The last uncaught exception whose own message no signature knows.

    Of exceptions chained by "direct cause" the first is meant; of those raised "during handling" the last. Frames whose
    first line, `Traceback (most recent call last):`, was cut off are an exception too, where one ends them.
    """
    if not any(mark in text for mark in (TRACEBACK, ", line ")):
        return None
    lines = list(numbered(text))
    fallback: Match | None = None
    index, is_cause = 0, False
    while index < len(lines):
        raw = lines[index][1]
        if not any(mark in raw for mark in _TRACEBACK_MARKS):
            index += 1
            continue
        stripped, rank, host = strip(raw)
        if stripped.startswith(("Exception ignored in", "Error in atexit")):
            index = _after_traceback(lines, index + 1)
            continue
        is_cut = _FRAME.match(stripped) is not None
        if not stripped.startswith(TRACEBACK) and not is_cut:
            is_cause = is_cause or "direct cause of the following exception" in stripped
            index += 1
            continue
        end = _after_traceback(lines, index)
        if is_cause:  # a wrapper raised around the exception before it; the one before is the one that counts
            is_cause = False
        elif exception := _exception_in([t for _, t in lines[index:end]], is_cut):
            until = next((n for n in range(end, min(end + 8, len(lines))) if TRACEBACK in lines[n][1]), end + 8)
            kinds = [kind for _, t in lines[end - 1 : until] if (kind := reader.kind(t))]
            if not kinds:
                fallback = _unknown(exception, lines[end - 1][0], rank, host, lines[end][1] if end < len(lines) else "")
            elif "root" in kinds:
                fallback = None
        index = end
    return fallback


def _exception_in(body: Sequence[str], is_cut: bool) -> tuple[re.Match[str], str] | None:
    """The exception that ends a traceback and where it was raised; None where there is none or it is not an error."""
    m = EXCEPTION.match(strip(body[-1])[0].strip())
    if m is None or m["type"].rpartition(".")[2] in _NOT_ERRORS:
        return None
    if is_cut and not m["type"].endswith(("Error", "Exception", "Interrupt", "Exit")):
        return None  # a stack that somebody printed, and then another word
    frame = next((f for t in reversed(body) if (f := strip(t)[0]).lstrip().startswith('File "')), "")
    return m, re.sub(r'^\s*File "([^"]*)", line (\d+).*', r"\1:\2", frame)


def _unknown(
    exception: tuple[re.Match[str], str], number: int, rank: int | None, host: str | None, after: str
) -> Match:
    m, where = exception
    line = Line(number, m[0][:MAX_LINE], rank, None, host, None)
    fields = {"type": m["type"], "message": (m["message"] or "").strip()[:300], "where": where}
    hint = strip(after)[0]
    is_ours = m["type"].endswith("LaunchError") and hint.startswith("  fix: ")
    fields |= {"hint": hint.removeprefix("  fix: ")} if is_ours else {}
    return Match(LAUNCH if is_ours else PYTHON, line, {k: v for k, v in fields.items() if v})


def _after_traceback(lines: Sequence[tuple[int, str]], start: int) -> int:
    """Index after the exception line of the traceback at `start`: frames are indented, the exception is not."""
    index = start + 1
    while index < len(lines):
        text = strip(lines[index][1])[0]
        if text and not text[0].isspace() and not text.startswith("File "):
            return index + 1
        index += 1
    return index
