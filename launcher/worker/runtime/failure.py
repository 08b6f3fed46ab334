"""What a failed process leaves behind, and which of several failures came first. No torch here."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from launcher import files, scrub
from launcher.errors import EXIT_JOB_FAILED, EXIT_TERMINATED, LaunchError
from launcher.messages import Message
from launcher.rundir import events, records
from launcher.rundir.records import EXIT, Failure
from launcher.worker.runtime import flight

CONSEQUENCE = re.compile(
    r"connection closed by peer|connection reset by peer|broken pipe|connection refused|socket closed"
    r"|timed out waiting \d+ms for (?:recv|send)|watchdog caught collective|some hccl operations have failed"
    r"|wait(?:ing)? timeout|notify register times out|getting socket times out|remote rank"
    r"|failed to recv, got 0 bytes|store.*(?:timeout|reset)|DistNetworkError|DistStoreError|connection was likely closed",
    re.IGNORECASE | re.DOTALL,
)
"""What a rank says when another one is gone: messages of gloo, the store and HCCL."""

PYTHON_ERROR = re.compile(r"[\w.]+(?:Error|Exception): ")

CAUSE, IN_FLIGHT, FOLLOWED = 0, 1, 2
"""How a record is ranked before its time counts: an error of its own, one still unwinding when the rank was asked to
stop, and one that only says that a peer is gone."""


def describe(error: BaseException, rank: int | None) -> Failure:
    """What an error file says of an error, secrets hidden. `time_ns` is the monotonic clock, which all processes of a host share."""
    known = error if isinstance(error, LaunchError) else None
    message = _words(error)
    made = Failure.of(
        rank=rank,
        type=type(error).__name__,
        message=message,
        traceback="".join(traceback.format_exception(error)),
        time_ns=time.monotonic_ns(),
        time=time.time(),
        weight=FOLLOWED if (known.is_consequence if known else _is_consequence(error)) else CAUSE,
        what=known.what if known else f"{type(error).__name__}: {message}",
        hint=known.hint if known else "",
        exit_code=known.exit_code if known else EXIT_JOB_FAILED,
    )
    return records.without_secrets(made)


def _words(error: BaseException) -> str:
    """What it says; some fail at that, and Python's own traceback then says this."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def _is_consequence(error: BaseException) -> bool:
    chain, seen = [error], error
    while seen.__cause__ or seen.__context__:
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]
        if seen in chain:
            break
        chain.append(seen)
    # The first error of the chain is what happened; what was raised while handling it is not.
    first = chain[-1]
    return bool(CONSEQUENCE.search(f"{type(first).__name__}: {_words(first)}"))


def record(path: Path, error: BaseException, rank: int | None) -> int:
    """Write the error file, unless this process wrote one already, and the traceback to stderr; the exit code."""
    failure = leave(path, error, rank)
    print(scrub.shown("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    flight.leave()
    return EXIT_JOB_FAILED if failure.exit_code is None else failure.exit_code


def leave(path: Path, error: BaseException, rank: int | None, *, traceback_text: str | None = None) -> Failure:
    """Write the error file, unless this process wrote one already; what it says. `traceback_text` replaces the error's."""
    failure = events.read_failure(path)
    if failure is None or failure.weight == IN_FLIGHT:
        failure = describe(error, rank)
        if traceback_text is not None:
            failure = failure.but(traceback=traceback_text)
        with contextlib.suppress(OSError):  # the agent then finds the traceback in the log
            events.write_failure(path, failure)
    return failure


def record_in_flight(path: Path, rank: int) -> None:
    """Called from a signal handler: write the exception that is unwinding right now, if there is one.

    A rank that raised and then takes seconds in its `finally:` is often asked to stop before it could say anything.
    """
    error = sys.exc_info()[1]
    if error is not None and events.read_failure(path) is None:
        events.write_failure(path, describe(error, rank).but(weight=IN_FLIGHT))


def first(failures: Iterable[Failure]) -> Failure | None:
    """The failure that the others followed from: by weight, then by time; None where there is none."""
    return min(failures, key=lambda f: (f.weight, f.time_ns), default=None)


def of_torchelastic(path: Path) -> Failure | None:
    """What torch's own @record left in TORCHELASTIC_ERROR_FILE, as a Failure; None where it left nothing."""
    content = files.read_json(path)
    message = content.get("message") if isinstance(content, dict) else None
    if not isinstance(message, dict):
        return None
    text, extra = str(message.get("message", "")), message.get("extraInfo")
    return Failure.of(
        type=text.partition(":")[0],
        message=text,
        what=text,
        hint="",
        traceback=str(extra.get("py_callstack", "")) if isinstance(extra, dict) else "",
        time_ns=time.monotonic_ns(),
        time=time.time(),
        weight=FOLLOWED if CONSEQUENCE.search(text) else CAUSE,
        exit_code=EXIT_JOB_FAILED,
    )


def of_exit(code: int, log: Path, oom_kills: int = 0) -> Failure:
    """The record of a process that left no error file: only its exit status and the end of its log tell of it."""
    if code == 0:
        what: str = Message(
            "ended early with exit code 0, before its work was done (os._exit or a stopped interpreter)"
        )
    elif code > 0:
        last = files.tail(log, 1)
        what = Message(
            "ended with exit code {code}{last}",
            code=code,
            last=f": {last}" if PYTHON_ERROR.match(last) else Message(" and no exception"),
        )
    else:
        what = Message("was killed by {Signals}", Signals=signal.Signals(-code).name)
    hint: str = Message("the end of its output is in {log}", log=log)
    if -code == signal.SIGKILL:
        what = (
            Message("{what}: out of host memory", what=what)
            if oom_kills
            else Message("{what}, most likely by the kernel for want of host memory", what=what)
        )
        hint = Message(
            "use fewer ranks, a smaller micro batch or fewer DataLoader workers; `dmesg | grep -i oom` "
            "on the host tells"
        )
    return Failure.of(
        type=EXIT,
        message=what,
        what=what,
        hint=hint,
        traceback=files.tail(log, 25),
        weight=CAUSE,
        exit_code=EXIT_JOB_FAILED,
    )


def is_preempted(code: int | None) -> bool:
    """Whether a rank stopped because it was asked to, its checkpoint saved."""
    return code == EXIT_TERMINATED
