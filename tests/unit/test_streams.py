"""Standard output and error that cannot be written: the display is lost, and nothing else."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest

from launcher.rundir import records
from launcher.rundir.history import History
from launcher.show.run import View

REPO = Path(__file__).resolve().parents[2]
JOB = """
import sys, time
from pathlib import Path
from typing import Any
from launcher import streams
streams.settle()
streams.outlive()
out = Path(sys.argv[1])
print("begun", flush=True)
while not out.with_suffix(".go").exists():
    time.sleep(0.01)
for number in range(20_000):  # more than a pipe holds
    print("step", number)
    print("word", number, file=sys.stderr)
sys.stdout.flush()
out.write_text("trained")
sys.exit(7)
"""


class Broken(records.Note):
    """An event that cannot be shown."""

    @property
    def figures(self) -> dict[str, Any]:
        raise ZeroDivisionError

    text = figures


def shell(line: str, out: Path) -> subprocess.CompletedProcess[str]:
    argv = ["bash", "-c", line, "bash", sys.executable, "-c", JOB, str(out)]
    out.with_suffix(".go").touch()
    return subprocess.run(argv, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "line",
    [
        '"$@" | head -3; exit ${PIPESTATUS[0]}',
        '"$@" 2>&1 | head -3; exit ${PIPESTATUS[0]}',
        '"$@" 2> >(true) | true; exit ${PIPESTATUS[0]}',
        '"$@" >/dev/full',
        '"$@" >/dev/full 2>&1',
        '"$@" >&-',
        '"$@" 2>&-',
        '"$@" <&- >&- 2>&-',
        'nohup "$@" | true; exit ${PIPESTATUS[0]}',
    ],
)
def test_a_job_goes_on_and_its_exit_code_is_its_own(tmp_path: Path, line: str):
    ran = shell(line, tmp_path / "out")

    assert (7, "trained") == (ran.returncode, (tmp_path / "out").read_text())
    assert "Traceback" not in ran.stderr + ran.stdout


def test_it_is_said_once_and_by_its_reason(tmp_path: Path):
    """On standard error, where that is still there: the user would think that the job has ended."""
    ran = shell('"$@" >/dev/full', tmp_path / "out")

    said = [line for line in ran.stderr.splitlines() if not line.startswith("word ")]
    assert ["standard output: No space left on device: nothing more is shown there; the job goes on"] == said


@pytest.mark.parametrize("is_hung_up", [True, False])
def test_a_closed_window_ends_nothing(tmp_path: Path, is_hung_up: bool):
    """With SIGHUP, and without it, as after `& disown`."""
    out = tmp_path / "out"
    master, slave = pty.openpty()
    terminal = ["setsid", "--ctty"] if is_hung_up else ["setsid"]
    argv = [*terminal, sys.executable, "-c", JOB, str(out)]
    job = subprocess.Popen(
        argv,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=False,
    )
    os.close(slave)
    while b"begun" not in os.read(master, 1024):
        assert job.poll() is None
    os.close(master)
    out.with_suffix(".go").touch()

    assert (7, "trained") == (job.wait(60), out.read_text())


def test_an_output_that_somebody_made_non_blocking_is_a_slow_one(tmp_path: Path):
    """Programs that share a terminal do so, and forget to undo it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    (tmp_path / "out.go").touch()
    argv = [sys.executable, "-c", JOB, str(tmp_path / "out")]
    job = subprocess.Popen(argv, env=os.environ | {"PYTHONPATH": str(REPO)}, stdout=writing, stderr=subprocess.DEVNULL)
    os.close(writing)
    time.sleep(0.2)  # until the pipe is full
    with os.fdopen(reading, "r") as lines:
        read = lines.read().splitlines()

    assert ("step 19999", 20_001) == (read[-1], len(read))
    assert 7 == job.wait(60)


def begun(code: str, folder: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """A job that has said so on its standard output, and that output."""
    job = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "out")],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert job.stdout is not None
    assert b"begun\n" == job.stdout.readline()
    return job, job.stdout


def test_a_signal_still_reaches_a_job_whose_display_is_lost(tmp_path: Path):
    """What passes a stop on is a handler, and it runs between two writes that fail."""
    code = JOB.replace('print("begun"', 'import signal; signal.signal(15, lambda *_: sys.exit(9)); print("begun"')
    job, stdout = begun(code, tmp_path)
    stdout.close()
    job.send_signal(signal.SIGTERM)

    assert 9 == job.wait(60)


def test_a_reader_that_stands_still_holds_up_no_stop(tmp_path: Path):
    """As `| less` left open: the job's exit code comes all the same."""
    code = JOB.replace('print("begun"', 'import signal; signal.signal(15, lambda *_: streams.hurry()); print("begun"')
    code = code.replace("streams.outlive()", "streams.outlive(); streams.STOPPING_S = 0.1")
    (tmp_path / "out.go").touch()
    job, stdout = begun(code, tmp_path)
    while not select.select([stdout], [], [], 0)[0]:
        assert job.poll() is None
    job.send_signal(signal.SIGTERM)

    assert (7, "trained") == (job.wait(60), (tmp_path / "out").read_text())


def test_an_event_that_cannot_be_shown_ends_no_job(capsys: pytest.CaptureFixture[str]):
    """Said once, whatever fails."""
    view = View()
    for _ in range(2):
        view.event(Broken(text="lost"))
    view.event(records.Note(text="still here"))

    said = capsys.readouterr()
    assert "still here\n" == said.out
    assert 1 == said.err.count("not everything can be shown (ZeroDivisionError")
    assert isinstance(view.history, History)


def test_an_evaluation_between_epochs_has_a_line_and_one_at_their_end_is_in_theirs(capsys: pytest.CaptureFixture[str]):
    view = View()
    for event in (
        records.Eval(step=2, epoch=0.5, more={"eval_loss": 0.75}),
        records.Log(step=3, epoch=0.75, loss=0.5),
        records.Eval(step=4, epoch=1.0, more={"eval_loss": 0.25}),
        records.Epoch.of({"epoch": 1.0, "train_loss": 0.5, "eval_loss": 0.25}),
    ):
        view.event(event)

    lines = capsys.readouterr().out.splitlines()
    assert ["step 2/0  eval loss 0.7500", "epoch 1  train loss 0.5000  eval loss 0.2500"] == [lines[0], lines[-1]]
    assert 3 == len(lines)
