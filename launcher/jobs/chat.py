"""A chat: a model in a process of its own that answers one conversation, question by question."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.files import tail
from launcher.jobs import predict
from launcher.jobs.options import Machine
from launcher.messages import Message
from launcher.planning.plan import Supervision
from launcher.rundir import events, talk

if TYPE_CHECKING:
    from launcher.jobs.launch import Job
    from launcher.jobs.predict import Work

LEAVES_S = 5.0
"""How long a model may take to leave before it is killed."""


class RefusedError(Exception):
    """There is no answer to this; the chat goes on."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


@dataclass
class History:
    """What was said so far."""

    system: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    turns: int = 0
    """Questions that were asked, those before a reset too."""

    def asked(self, question: str) -> dict[str, Any]:
        """The conversation with a question at its end."""
        before = [{"role": "system", "content": self.system}] if self.system else []
        return {"messages": [*before, *self.messages, {"role": "user", "content": question}]}

    def answered(self, question: str, answer: str) -> None:
        """Keep a question with its answer; of an answer without a word, neither."""
        self.turns += 1
        if answer.strip():
            self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def reset(self) -> None:
        """Begin anew, with the same system message."""
        self.messages.clear()


@contextlib.contextmanager
def partner(work: Work, device: str, note: Callable[[str], None]) -> Iterator[Partner]:
    """A model that is ready to be asked, and is gone at the end of the block. `note`: called with what the user should know.

    Raises:
        LaunchError: what the user must change, or why the model cannot be loaded.
    """
    with _ending(), predict.prepared(work, Machine(nproc=1, device=device), Supervision()) as job:
        argv = [sys.executable, "-m", "launcher.worker.talk", "--run-dir", str(job.run.path.resolve())]
        with job.run.agent_log.open("ab") as log, _started(argv, job.agent_env(), log) as process:
            try:
                yield Partner(job, process, note)
            finally:
                _leave(process)


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """A closed window and SIGTERM end the chat as ^D does, so that nothing stays behind."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _started(argv: list[str], env: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # A session of its own: ^C at the terminal ends an answer, and not the model.
    return subprocess.Popen(
        argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    )


def _leave(process: subprocess.Popen[bytes]) -> None:
    """It leaves when nobody can ask any more; one in the middle of an answer is ended."""
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.close()
    process.terminate()
    try:
        process.wait(LEAVES_S)
    except subprocess.TimeoutExpired:
        process.kill()


class Partner:
    """The other side of a chat."""

    def __init__(self, job: Job, process: subprocess.Popen[bytes], note: Callable[[str], None]) -> None:
        self._job, self._process = job, process
        while talk.READY not in (said := self._next()):
            note(said[talk.NOTE])
        self.device: str = said[talk.READY]

    def ask(self, conversation: dict[str, Any], turn: int, on_piece: Callable[[str], None]) -> dict[str, Any]:
        """The answer, as `predict` has it, whose text comes piece by piece. SIGINT ends it early, and nothing else.

        Raises:
            RefusedError: this cannot be answered.
            LaunchError: the model's process failed.
        """
        assert self._process.stdin is not None
        with self._interrupting():
            with contextlib.suppress(BrokenPipeError):  # it is gone, and the next line says why
                self._process.stdin.write(talk.line(**{talk.CONVERSATION: conversation, talk.TURN: turn}))
                self._process.stdin.flush()
            while True:
                said = self._next()
                if talk.PIECE in said:
                    on_piece(said[talk.PIECE])
                elif talk.REFUSED in said:
                    raise RefusedError(said[talk.REFUSED], said[talk.HINT])
                else:
                    answer: dict[str, Any] = said[talk.END]
                    return answer

    @contextlib.contextmanager
    def _interrupting(self) -> Iterator[None]:
        previous = signal.signal(signal.SIGINT, lambda number, frame: self._process.send_signal(signal.SIGINT))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        raw = self._process.stdout.readline()
        if raw.endswith(b"\n"):
            return talk.parsed(raw)
        raise self._failed()

    def _failed(self) -> LaunchError:
        """Why the model's process ended."""
        code, run = self._process.wait(), self._job.run
        failure = events.read_failure(run.error_path(0, 0))
        if failure is not None:
            code = EXIT_JOB_FAILED if failure.exit_code is None else failure.exit_code
            return LaunchError(failure.what or failure.message or "", hint=failure.hint or "", exit_code=code)
        killed = (
            Message("it was killed by {name}", name=signal.Signals(-code).name) if code < 0 else Message("it ended")
        )
        words = tail(run.agent_log)
        return LaunchError(
            "the model's process: {killed}\n{words}", exit_code=EXIT_JOB_FAILED, killed=killed, words=words
        )
