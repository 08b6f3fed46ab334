"""The rendered files start the same job under accelerate and torchrun, with data prepared by whichever rank is first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import launch
from tests.support.run import TIMEOUT_S, Job

pytestmark = pytest.mark.ranks

WORDS = ("training.num_train_epochs=1", "training.logging_steps=1", "data.train.limit=60")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "strategy"),
    [("accelerate", "ddp"), ("accelerate", "zero2"), ("accelerate", "fsdp2"), ("torchrun", "zero3")],
)
def test_another_launcher_trains_the_same_job(job, tmp_path, launcher, strategy):
    """Same losses and the same planned engine as `ascend-launch` gives, checked by every rank."""
    words = (*WORDS, f"parallel.strategy={strategy}")
    run = tmp_path / "run"
    environment = launch.environment(OMP_NUM_THREADS="1", ASCEND_LAUNCH_CACHE=str(tmp_path / "cache"))
    render = ["render", "--nproc", "2", "--device", "cpu", "--out", str(run), "recipes/tiny-cpu.yaml"]
    _run(launch.command(*render, *words), environment)
    command = {
        "accelerate": [_script("accelerate"), "launch", "--config_file", str(run / "accelerate.yaml")],
        "torchrun": [_script("torchrun"), "--nproc-per-node", "2", "--standalone"],
    }[launcher]
    _run([*command, "-m", "launcher.worker", "--run-dir", str(run)], environment)

    ran, reference = Job(0, "", "", run), job(2, *words)
    assert pytest.approx(reference.losses, rel=1e-4) == ran.losses
    assert (2, strategy) == (ran.metrics["world_size"], ran.metrics["strategy"])
    assert 101 == len(ran.predictions)


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=launch.REPO, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert 0 == done.returncode, done.stdout + done.stderr
