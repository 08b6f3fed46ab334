"""Faults on one node: the right rank is blamed, nothing outlives the launcher, and no work is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher import files
from launcher.rundir import records

pytestmark = pytest.mark.ranks
Launch = Callable[..., Any]
SAVES = ("training.save_strategy=steps", "training.save_steps=5")


def test_the_rank_that_raised_is_named_with_its_traceback(launch: Launch):
    """Its own exception, once, although the other rank fails as a consequence."""
    job = launch("--nproc=2", fault="raise 1 7")

    assert 1 == job.wait()
    assert (1, "ValueError") == (job.failure["rank"], job.failure["type"])
    assert 1 == job.err.count("ate the homework\n") - job.err.count("error:")
    assert "rank 1 on" in job.err
    assert "in on_step_begin" in job.failure["traceback"]
    assert job.gone(2)


def test_slow_teardown_does_not_shift_the_blame(launch: Launch):
    """The culprit destroys the group, its peer fails at once, and its own exception comes out three seconds later."""
    job = launch("--nproc=2", fault="slow_teardown 1 7")

    assert 1 == job.wait()
    assert (1, "ValueError") == (job.failure["rank"], job.failure["type"])
    assert job.gone(2)


def test_an_exception_in_rank_0_is_its_own(launch: Launch):
    """Rank 0 is blamed when it is rank 0."""
    job = launch("--nproc=2", fault="slow_teardown 0 7")

    assert 1 == job.wait()
    assert (0, "ValueError") == (job.failure["rank"], job.failure["type"])


def test_a_killed_rank_is_named_with_its_signal(launch: Launch):
    """SIGKILL leaves no exception; the likely reason is said."""
    job = launch("--nproc=3", fault="kill 2 7")

    assert 1 == job.wait()
    assert 2 == job.failure["rank"]
    assert "was killed by SIGKILL" in job.failure["what"]
    assert "memory" in job.err
    assert job.gone(2)


def test_leaving_without_an_error_is_an_error(launch: Launch):
    """os._exit(0) in the middle of a training is not success."""
    job = launch("--nproc=2", fault="exit 1 7")

    assert 1 == job.wait()
    assert 1 == job.failure["rank"]
    assert "ended early with exit code 0" in job.failure["what"]


def test_a_restart_resumes_and_ends_as_if_nothing_had_happened(launch: Launch, tmp_path: Path):
    """A rank is killed at step 33; the second attempt goes on from step 30 to the same figures."""
    whole = launch("--nproc=2", *SAVES, prefix=("bash", "-c", 'umask 027; exec "$@"', "bash"))
    assert 0 == whole.wait(), whole.err
    job = launch("--nproc=2", "--max-restarts=1", *SAVES, fault="kill 1 33")

    assert 0 == job.wait(), job.err
    (restart,) = job.events("restart")
    assert (1, 1) == (restart["attempt"], restart["rank"])
    assert whole.metrics["epochs"] == job.metrics["epochs"]
    assert (whole.dir / "predictions.jsonl").read_bytes() == (job.dir / "predictions.jsonl").read_bytes()
    assert (whole.dir / "model/model.safetensors").read_bytes() == (job.dir / "model/model.safetensors").read_bytes()
    modes = {path: oct(path.stat().st_mode & 0o777) for path in whole.dir.rglob("*")}
    assert {} == {path: mode for path, mode in modes.items() if mode != ("0o750" if path.is_dir() else "0o640")}
    lines = (job.dir / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [records.event(json.loads(line)) for line in lines]
    assert lines == [files.json_text(event.to_json()) for event in events]
    assert [] == [event for event in events if event.wrong or isinstance(event, records.Other)]


def test_restarts_end(launch: Launch):
    """A fault in every attempt ends the job after --max-restarts, with the last attempt's failure."""
    job = launch("--nproc=2", "--max-restarts=1", fault="raise 1 3 *")

    assert 1 == job.wait()
    assert [1] == [event["attempt"] for event in job.events("restart")]
    assert 1 == job.failure["attempt"]


def test_a_users_mistake_is_not_restarted(launch: Launch):
    """Exit code 2 at once: trying again would find the same."""
    job = launch("--nproc=2", "--max-restarts=3", "data.text=txet")

    assert 2 == job.wait()
    assert not job.events("restart")
    assert "Traceback" not in job.err


def test_a_stopped_rank_is_found_and_named(launch: Launch):
    """SIGSTOP: nothing is said by anybody; after the limit that rank is named, with the stacks of the others."""
    job = launch("--nproc=2", "--hang-timeout=8", fault="stop 1 7")

    assert 1 == job.wait()
    assert (1, "Stalled") == (job.failure["rank"], job.failure["type"])
    assert "is stopped" in job.failure["what"]
    # Woken to answer, it may have gone on by a step before it does.
    assert "most recent call first" in (job.dir / "attempt_0/stacks_1.txt").read_text()
    assert (job.dir / "attempt_0/stacks_0.txt").read_text()
    assert job.gone(2)


def test_a_collective_that_one_rank_never_joins(launch: Launch):
    """The rank that sleeps is named, not the one that waits for it, its stack shows where, and the collective to which it never
    came is named."""
    job = launch("--nproc=2", "--hang-timeout=8", fault="sleep 0 7")

    assert 1 == job.wait()
    assert (0, "Stalled") == (job.failure["rank"], job.failure["type"])
    assert "_sleep" in job.failure["traceback"]
    collective = job.failure["collective"]
    assert ("missing", [0], [1]) == (collective["how"], collective["ranks"], collective["calls"][0]["ranks"])
    assert f"collective {collective['number']} waits for rank 0: rank 1: " in job.err
    assert not list(job.dir.glob("attempt_0/*.ask"))


@pytest.mark.slow
def test_a_hang_is_restarted(launch: Launch):
    """--max-restarts covers stalls too."""
    job = launch("--nproc=2", "--hang-timeout=8", "--max-restarts=1", *SAVES, fault="stop 1 12")

    assert 0 == job.wait(), job.err
    assert 1 == len(job.events("restart"))


def test_nan_stops_the_run_with_the_reason(launch: Launch):
    """A diverged loss is not trained on for hours."""
    job = launch("--nproc=2", fault="nan 0 7")

    assert 1 == job.wait()
    assert "nan" in job.failure["what"].lower()
    assert 0 == job.failure["rank"], "the rank that the sentence names, though all raise it"
    assert 1 == job.err.count(job.failure["what"])


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_stop_signal_saves_and_the_run_goes_on_later(launch: Launch, number: int, code: int):
    """All ranks save one step, DataLoader workers alive; the command that is printed then finishes the run."""
    words = ("--nproc=2", "training.num_train_epochs=6", "training.dataloader_num_workers=1")
    job = launch(*words)
    job.until("step", lambda e: e["step"] >= 25)
    job.process.send_signal(number)

    assert code == job.wait()
    (stopped,) = job.events("preempted")
    assert stopped["saved"]
    assert (job.dir / f"checkpoints/checkpoint-{stopped['step']}").is_dir()
    assert job.gone(2)
    again = job.continued()
    assert 0 == again.returncode, again.stderr
    assert (120, 2) == (job.metrics["train"]["global_step"], job.metrics["world_size"])


def test_a_stop_signal_that_comes_too_late_changes_nothing(launch: Launch):
    """All is trained and written: the run is done, and a queue must not start it again."""
    job = launch("--nproc=2", "training.num_train_epochs=1")
    job.until("end", lambda e: True)
    job.process.send_signal(signal.SIGTERM)

    assert 0 == job.wait(), job.err
    assert 20 == job.metrics["train"]["global_step"]


def test_nothing_outlives_a_killed_launcher(launch: Launch):
    """SIGKILL to the command: agent and ranks are gone in seconds."""
    job = launch("--nproc=2", "training.num_train_epochs=50", "training.dataloader_num_workers=1")
    job.until("step", lambda e: e["step"] >= 3)
    job.process.kill()

    assert job.gone(15)


def test_nothing_outlives_a_killed_agent(launch: Launch):
    """SIGKILL to the agent: its ranks and their DataLoader workers go with it, and the command says what happened."""
    words = ("training.num_train_epochs=50", "training.dataloader_num_workers=1", "report=true")
    job = launch("--nproc=2", *words)
    job.until("step", lambda e: e["step"] >= 3)
    agents = [p for p in job.leftovers() if "launcher.worker.agent.agent" in " ".join(p.cmdline())]
    min(agents, key=lambda p: p.create_time()).kill()

    assert 1 == job.wait()
    assert "the agent was killed by SIGKILL" in job.err
    assert "the agent was killed by SIGKILL" in job.failure["what"]
    assert "the agent was killed by SIGKILL" in (job.dir / "report.html").read_text()
    assert job.gone(2)


def test_orphans_of_a_killed_rank_are_ended(launch: Launch):
    """A rank's own children that ignore SIGTERM do not stay."""
    job = launch("--nproc=2", fault="orphan 1 7")

    assert 1 == job.wait()
    assert job.gone(2)
    assert "" == subprocess.run(["pgrep", "-f", "orphan-of-ours"], capture_output=True, text=True, check=False).stdout


def test_a_dead_dataloader_worker_is_the_ranks_error(launch: Launch):
    """torch's own sentence about the worker is what the user reads."""
    job = launch("--nproc=2", "training.dataloader_num_workers=1", fault="kill_loader 1 7")

    assert 1 == job.wait()
    assert 1 == job.failure["rank"]
    assert "DataLoader worker" in job.failure["what"]


@pytest.mark.slow
def test_running_out_of_memory_is_said(launch: Launch):
    """Under an address-space limit the allocation itself fails, in that rank."""
    limit = 12 << 30
    job = launch("--nproc=2", fault="memory 1 7", prefix=("prlimit", f"--as={limit}"))

    assert 1 == job.wait()
    assert 1 == job.failure["rank"]
    assert "MemoryError" in job.failure["what"] or "memory" in job.failure["what"]


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root writes anywhere without setpriv"
)
def test_a_run_directory_that_turns_read_only_ends_with_the_reason(launch: Launch):
    """Older checkpoints stay, the checkpoint that could not be written is said, and the job ends with the path."""
    as_anybody = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    job = launch("--nproc=2", "--max-restarts=1", *SAVES, prefix=as_anybody)  # which cannot begin another attempt
    job.until("step", lambda e: e["step"] >= 12)
    folders = [job.dir, *(p for p in job.dir.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)

    try:
        assert 1 == job.wait()
    finally:
        for folder in folders:
            if folder.exists():
                folder.chmod(0o755)
    # Which rank comes first is open: the first with the model, or the other with the mark that it has done its work.
    assert re.search(
        r"model: the model could not be written: Permission denied|Permission denied: '.*/done_1'", job.err
    )
    assert "failure.json could not be written either" in job.err
    assert "no other attempt could begin" in job.err
    assert list((job.dir / "checkpoints").glob("checkpoint-*"))


def test_two_launches_on_one_run_directory(launch: Launch):
    """The second is refused, and the first goes on, although its window is closed."""
    job = launch("--nproc=2", "training.num_train_epochs=6")
    job.until("step")
    job.lose_display()
    second = launch("--nproc=2", "training.num_train_epochs=6", folder=job.dir)

    assert 2 == second.wait()
    assert "another launch is at work here" in second.err
    assert 0 == job.wait(), job.err
    third = launch("--nproc=2", "training.num_train_epochs=6", folder=job.dir)
    assert 2 == third.wait()
    assert "this run is finished" in third.err


def test_of_two_launches_at_once_the_second_changes_nothing(launch: Launch):
    """It is refused while the first has no ranks yet, before it writes a plan of its own."""
    job = launch("--nproc=2")
    while not (job.dir / "plan.json").exists():
        assert job.process.poll() is None
        time.sleep(0.02)
    second = launch("--nproc=1", folder=job.dir)

    assert 2 == second.wait()
    assert "another launch is at work here" in second.err
    assert 0 == job.wait(), job.err
    assert 2 == job.metrics["world_size"]


def test_sigterm_to_every_process_saves(launch: Launch):
    """As Slurm does it: DataLoader workers get it too, and the ranks need them until they have saved."""
    job = launch("--nproc=2", "training.num_train_epochs=300", "training.dataloader_num_workers=1")
    job.until("step", lambda e: e["step"] >= 5)
    everybody: list[Any] = []
    while (
        len(everybody) < 7
    ):  # launcher, agent, zygote, two ranks with a worker each, which are between epochs at times
        assert job.process.poll() is None
        everybody = [job.process, *psutil.Process(job.process.pid).children(recursive=True)]
    for process in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker whose epoch ended
            process.send_signal(signal.SIGTERM)

    assert 143 == job.wait()
    (stopped,) = job.events("preempted")
    assert stopped["saved"]
    assert (job.dir / "checkpoints" / f"checkpoint-{stopped['step']}").is_dir()
    assert job.gone(2)


@pytest.mark.slow
def test_an_interrupt_that_ends_the_reader_too_saves(launch: Launch):
    """`2>&1 | tee log` and then ^C, which a terminal sends to both: what is said meanwhile goes nowhere."""
    read, write = os.pipe()
    tee = subprocess.Popen(["tee", os.devnull], stdin=read, stdout=subprocess.DEVNULL)
    os.close(read)
    into_tee = ("bash", "-c", f'exec "$@" >/dev/fd/{write} 2>&1', "bash")
    job = launch("--nproc=1", "training.num_train_epochs=300", prefix=into_tee, pass_fds=(write,))
    os.close(write)
    job.until("step", lambda e: e["step"] >= 5)
    for process in (tee, job.process):
        process.send_signal(signal.SIGINT)

    assert 130 == job.wait()
    (stopped,) = job.events("preempted")
    assert stopped["saved"]
    assert (job.dir / "checkpoints" / f"checkpoint-{stopped['step']}").is_dir()
    assert -signal.SIGINT == tee.wait()
    assert job.gone(2)


def test_a_second_interrupt_ends_it_now(launch: Launch, tmp_path: Path):
    """^C twice does not wait for the grace."""
    stamp = tmp_path / "stamp"
    job = launch("--nproc=2", "--grace=100", fault="sleep 1 7", FAULT_STAMP=str(stamp))
    while not stamp.exists():
        assert job.process.poll() is None
        time.sleep(0.1)
    for _ in range(2):
        job.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    started = time.monotonic()

    assert 130 == job.wait()
    assert time.monotonic() - started < 10
    assert job.gone(2)


def test_limits_of_this_test_process_are_unchanged():
    """The memory limit above was the job's alone."""
    assert resource.RLIM_INFINITY == resource.getrlimit(resource.RLIMIT_AS)[0]
