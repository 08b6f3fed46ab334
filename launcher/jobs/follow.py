"""Start this node's agent, follow it, pass signals on, and say how it ended. The only place that starts an agent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from launcher import files, streams
from launcher.errors import EXIT_INTERRUPTED, EXIT_JOB_FAILED, EXIT_OK, EXIT_TERMINATED
from launcher.messages import Message
from launcher.rundir import events, paths, records
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import LAST_WORDS, LOCK, RunDir
from launcher.rundir.records import Event, Failure
from launcher.signals import stop_signals_to

POLL_S = 0.1
BUSY_POLL_S = 0.01
KILL_MARGIN_S = 15.0
"""How long an agent that was asked to stop may take beyond its ranks' grace before it is killed."""
LINGER_S = 5.0
"""How long what an agent started may outlive it: the kernel ends it with the agent, but not in the same instant."""


def run(
    argv: list[str],
    run_dir: RunDir,
    env: Mapping[str, str],
    on_event: Callable[[Event], None],
    *,
    on_poll: Callable[[], bool] | None = None,
    lock: int | None = None,
    has_stdin: bool = False,
) -> Outcome:
    """Run the agent to its end, handing every event on as it is written.

    `on_poll` is called all the while and must not block; it returns whether it had something to do, and is then called
    again at once. What it raises ends the agent.

    `has_stdin`: the job reads this process' standard input, as a single rank of a program may.

    `lock`, the run directory's, goes to the agent, so that nothing comes between the checks of a launch and its ranks.

    SIGINT and SIGTERM are passed to the agent once; its ranks then stop in their own time. A second SIGINT kills it.
    """
    # A run that goes on has events already; only new ones are shown.
    offset = run_dir.events_path.stat().st_size if run_dir.events_path.exists() else 0
    paths.remove(run_dir.failure_path)
    with os.fdopen(paths.open_append(run_dir.agent_log), "ab") as log:
        words = os.fdopen(os.memfd_create("last-words"), "rb")
        handed = {LAST_WORDS: words.fileno(), **({} if lock is None else {LOCK: lock})}
        agent = start_agent(argv, env, log, handed, has_stdin=has_stdin)
    if lock is not None:
        os.close(lock)
    stop = _Stop(agent, run_dir.plan().supervision.grace_s + KILL_MARGIN_S)
    with stop.watching():
        is_recorded = False
        while True:
            ended = agent.poll() is not None
            if stop.signal is not None and not is_recorded:
                is_recorded = True
                name = signal.Signals(stop.signal).name
                events.append_event(run_dir.events_path, records.Stopping(signal=name))
            offset = events.forward_events(run_dir.events_path, offset, on_event)
            if ended:
                break
            stop.enforce()
            if on_poll is None:
                time.sleep(POLL_S)
            elif not on_poll():
                time.sleep(BUSY_POLL_S)
        # Until then the folder is held: a report would call the run a running one, and a launch that goes on is refused.
        lingers_until = time.monotonic() + LINGER_S
        while run_dir.is_held() and time.monotonic() < lingers_until:
            time.sleep(BUSY_POLL_S)
    code = agent.returncode
    failure = events.read_failure(run_dir.failure_path) or _last_words(words)
    if stop.signal is not None and code != EXIT_OK:
        code = EXIT_INTERRUPTED if stop.signal == signal.SIGINT else EXIT_TERMINATED
    elif code < 0:
        failure = failure or _agent_died(run_dir, -code)
        code = EXIT_JOB_FAILED
    elif code not in (EXIT_OK, EXIT_TERMINATED, EXIT_INTERRUPTED) and failure is None:
        failure = _agent_died(run_dir, 0)
    return Outcome(code, failure if code else None, files.read_json(run_dir.metrics_path))


def start_agent(
    argv: list[str],
    env: Mapping[str, str],
    log: BinaryIO,
    handles: Mapping[str, int],
    popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    has_stdin: bool = False,
) -> subprocess.Popen[bytes]:
    """The agent's process, which writes to `log`, and finds the number of each handle in the variable of its name."""
    return popen(
        argv,
        stdin=None if has_stdin else subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**env, **{name: str(handle) for name, handle in handles.items()}},
        pass_fds=list(handles.values()),
        # A session of its own: ^C at the terminal must reach the ranks through the agent, not past it.
        start_new_session=True,
    )


def foreground(run_dir: RunDir, env: Mapping[str, str]) -> int:
    """Run one rank in this terminal, so that breakpoints work; its exit code."""
    argv = [sys.executable, "-m", "launcher.worker", "--run-dir", str(run_dir.path.resolve())]
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is the debugger's
    try:
        return subprocess.run(argv, env=dict(env), check=False).returncode
    finally:
        signal.signal(signal.SIGINT, previous)


class _Stop:
    """Passes the first signal on, and ends an agent that does not stop."""

    def __init__(self, agent: subprocess.Popen[bytes], kill_after_s: float) -> None:
        self.agent = agent
        self.kill_after_s = kill_after_s
        self.signal: int | None = None
        self.deadline = float("inf")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        try:
            with stop_signals_to(self._on_signal):
                yield
        finally:
            if self.agent.poll() is None:  # the show failed, not the job: leave nothing behind
                self.agent.kill()
                self.agent.wait()

    def _on_signal(self, number: int, frame: object) -> None:
        if self.signal is not None and number == signal.SIGINT:
            self.deadline = 0.0
            return
        if self.signal is None:
            streams.hurry()
            self.signal = number
            self.deadline = time.monotonic() + self.kill_after_s
            if self.agent.poll() is None:
                self.agent.send_signal(number)

    def enforce(self) -> None:
        if time.monotonic() > self.deadline:
            self.agent.kill()  # its ranks die with it: each asked the kernel for that


def _last_words(file: BinaryIO) -> Failure | None:
    """What the agent could not write to its run directory."""
    with file:
        file.seek(0)
        text = file.read()
    return records.failure(json.loads(text)) if text else None


def _agent_died(run_dir: RunDir, number: int) -> Failure:
    what: str = (
        Message("the agent was killed by {Signals}", Signals=signal.Signals(number).name)
        if number
        else Message("the agent ended without saying why")
    )
    if number == signal.SIGKILL:
        what = Message("{what}, most likely by the kernel for want of memory", what=what)
    words = files.tail(run_dir.agent_log)
    hint: str = Message("the same command with this run directory goes on from the newest checkpoint")
    if number == signal.SIGKILL:
        hint = Message("use fewer ranks, a smaller micro batch or fewer DataLoader workers; {hint}", hint=hint)
    hint = Message("see {agent_log}; {hint}", agent_log=run_dir.agent_log, hint=hint) if words else hint
    failure = Failure.of(rank=None, what=what, hint=hint, traceback=words)
    with contextlib.suppress(OSError):  # on a full disk it is still shown
        events.write_failure(run_dir.failure_path, failure)
    return failure
