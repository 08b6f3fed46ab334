"""A model that is chatted with: `python -m launcher.worker.talk --run-dir DIR`, one process on one device.

Conversations come on standard input, answers leave by standard output (launcher.rundir.talk). SIGINT ends an answer early. It
ends with its input, so with whoever started it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.rundir import events, records, talk
from launcher.rundir.paths import RunDir
from launcher.worker import start

if TYPE_CHECKING:
    from launcher.worker.training.write import Writer


def main() -> int:
    """Settle the environment before anything imports torch, load the model, and answer until there is nothing more."""
    parser = argparse.ArgumentParser(prog="python -m launcher.worker.talk", description=__doc__.partition(":")[0])
    parser.add_argument("--run-dir", type=Path, required=True)
    run = RunDir(parser.parse_args().run_dir)
    stop = _Stop()
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no part of an answer
    start.settle(run)
    from launcher.worker.runtime import failure

    try:
        _talk(run, out, stop)
    except BrokenPipeError:
        return 0
    except Exception as error:
        return failure.record(run.error_path(0, 0), error, None)
    return 0


class _Stop:
    """Whether SIGINT came since it was asked last."""

    def __init__(self) -> None:
        self._is_asked = False
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self._is_asked = True

    def __call__(self) -> bool:
        return self._is_asked

    def forget(self) -> None:
        self._is_asked = False


def _talk(run: RunDir, out: IO[bytes], stop: _Stop) -> None:
    from launcher.rundir.prepared import Prepared
    from launcher.worker import prepare
    from launcher.worker.engines import device
    from launcher.worker.training.write import Writer

    plan = run.plan()
    device.prepare_env(plan, os.environ)
    device.set_threads()
    prepare.main(run)
    prepared = Prepared.load(run.data_path)
    assert prepared is not None
    where = device.place(plan, device.Rank(0, 0, 1, 1))
    writer = Writer.whole(plan, prepared, where)
    events.forward_events(run.events_path, 0, lambda event: _pass_on(event, out))
    out.write(talk.line(**{talk.READY: str(where)}))
    for raw in sys.stdin.buffer:
        stop.forget()
        out.write(talk.line(**_answer(writer, talk.parsed(raw), out, stop)))


def _pass_on(event: records.Event, out: IO[bytes]) -> None:
    if isinstance(event, records.Note):
        out.write(talk.line(**{talk.NOTE: event.text}))


def _answer(writer: Writer, asked: dict[str, Any], out: IO[bytes], stop: _Stop) -> dict[str, Any]:
    try:
        answer = writer.stream(asked[talk.CONVERSATION], asked[talk.TURN], _pieces(writer, out), stop)
    except LaunchError as error:
        return {talk.REFUSED: error.what, talk.HINT: error.hint}
    return {talk.END: answer}


def _pieces(writer: Writer, out: IO[bytes]) -> Any:
    """What `generate` hands tokens to; whole characters leave it, and of most scripts whole words."""
    from transformers import TextStreamer

    class Pieces(TextStreamer):  # type: ignore[misc, unused-ignore]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                out.write(talk.line(**{talk.PIECE: text}))

    return Pieces(writer.tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)


if __name__ == "__main__":
    sys.exit(main())
