"""Programs that know nothing of us, on two ranks: a hang is named, a stop saves, and a restart goes on from what was saved."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

from tests.support import launch  # noqa: E402

PROGRAMS = Path(__file__).parent / "programs"
TRAINING = (
    *("--use_cpu", "--seed", "7", "--max_steps", "24", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3"),
    *("--logging_steps", "4", "--report_to", "none", "--disable_tqdm", "True", "--output_dir", "out"),
)
ZERO2 = {
    "zero_optimization": {"stage": 2},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}


@pytest.fixture
def run(tmp_path: Path):
    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "zero2.json").write_text(json.dumps(ZERO2))
        own = {
            "ASCEND_LAUNCH_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "PYTHONPATH": launch.REPO,
        }
        env = {
            **launch.environment(),
            **{k: str(v) for k, v in own.items()},
            "MODEL": f"{launch.REPO}/recipes/tiny",
            **env,
        }
        argv = [sys.executable, "-m", "launcher.cli", "program", "--nproc", "2", *words]
        return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)

    return run


def found(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def weights(done: subprocess.CompletedProcess[str]) -> str:
    return re.findall(r"weights (\w+)", done.stdout)[-1]


@pytest.mark.parametrize("what, since", [("early", "it started"), ("loop", "the end of step 10")])
def test_a_rank_that_stands_still_is_named(run, tmp_path: Path, what: str, since: str):
    """In a plain loop, and also before its first step, with the line that it stands at."""
    done = run("--hang-timeout", "4", "--run-dir", "run", str(PROGRAMS / "hangs.py"), what)

    assert 1 == done.returncode
    assert f"hang       rank 1 has not moved since {since}" in done.stderr
    record = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert (1, "Stalled") == (record["rank"], record["type"])
    assert re.search(r'hangs\.py", line \d+ in <module>\s*\Z', record["traceback"])
    if what == "loop":  # before, there is no process group
        assert 10 == [e for e in found(tmp_path / "run") if e["event"] == "step"][-1]["step"]
        assert "rank 0 waits for it in backward (hangs.py:" in done.stderr
        collective = record["collective"]
        assert ("missing", [1], [0]) == (collective["how"], collective["ranks"], collective["calls"][0]["ranks"])


def test_a_rank_that_is_busy_is_no_hang(run, tmp_path: Path):
    """It makes no step for several times as long, and the other one waits for it."""
    done = run("--hang-timeout", "4", "--run-dir", "run", str(PROGRAMS / "hangs.py"), "busy")

    assert 0 == done.returncode, done.stderr
    assert 20 == [e for e in found(tmp_path / "run") if e["event"] == "step"][-1]["step"]


@pytest.mark.parametrize(
    "more, what, at",
    [((), "stop", "9"), (("--deepspeed", "zero2.json"), "stop in evaluation", "12")],
    ids=["ddp, at a step", "zero2, in an evaluation"],
)
def test_a_stopped_trainer_saves_and_goes_on_to_the_same_weights(
    run, tmp_path: Path, more: tuple[str, ...], what: str, at: str
):
    """SIGTERM to one rank: all save at one step, by the program's own saving, and the job ends as a preempted one. The same
    command in the same run directory goes on from there."""
    words = (str(PROGRAMS / "watched.py"), *TRAINING, *more, "--save_strategy", "no", "--eval_strategy", "steps")
    words += ("--eval_steps", "12", "--per_device_eval_batch_size", "1")
    through = run(*words)
    stopped = run("--run-dir", "run", *words, WHAT=what, AT=at)
    continued = run("--run-dir", "run", *words)

    assert [0, 143, 0] == [through.returncode, stopped.returncode, continued.returncode], stopped.stderr
    (preempted,) = [e for e in found(tmp_path / "run") if e["event"] == "preempted"]
    assert (True, "SIGTERM") == (preempted["saved"], preempted["signal"])
    assert f"saved          {preempted['path']}, at step {preempted['step']}, by SIGTERM" in stopped.stderr
    assert f"a Trainer goes on from {preempted['path']}" in continued.stderr
    assert weights(through) == weights(continued)
    (finished,) = (tmp_path / "runs" / "watched").glob("2*")
    events = found(finished)
    logs = [(e["step"], e["loss"] is not None, "learning_rate" in e) for e in events if e["event"] == "log"]
    assert [(step, True, True) for step in range(4, 25, 4)] == logs
    assert [12, 24] == [e["step"] for e in events if e["event"] == "eval" and e["eval_loss"] > 0]


def test_a_restart_goes_on_from_the_newest_whole_checkpoint_of_this_run(run, tmp_path: Path):
    """Not from one of another run, which lies in the same folder; and not where the program says what it goes on from."""
    other = tmp_path / "out" / "checkpoint-23"
    other.mkdir(parents=True)
    (other / "trainer_state.json").write_text('{"global_step": 23}')
    words = ("--max-restarts", "1", "--run-dir", "run", str(PROGRAMS / "watched.py"), *TRAINING, "--save_steps", "4")
    done = run(*words, WHAT="fail", AT="10")

    assert 0 == done.returncode, done.stderr
    resumed = [e["path"] for e in found(tmp_path / "run") if e["event"] == "resume"]
    assert [str(tmp_path / "out" / "checkpoint-8")] == resumed
    assert f"resume_from_checkpoint={resumed[0]}" in done.stdout


def test_without_hooks_a_program_is_left_alone(run, tmp_path: Path):
    done = run("--hooks", "none", "--run-dir", "run", str(PROGRAMS / "watched.py"), *TRAINING)

    assert 0 == done.returncode, done.stderr
    assert not {"step", "log", "train", "save"} & {e["event"] for e in found(tmp_path / "run")}
    assert [] == list((tmp_path / "run" / "attempt_0").glob("beat_*"))
