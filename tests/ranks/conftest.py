"""Jobs of several real ranks over gloo, started by the command line; equal jobs are run once a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 300


@dataclass(frozen=True)
class Job:
    """A finished job."""

    code: int
    out: str
    err: str
    dir: Path

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.dir / "metrics.json").read_text())

    @property
    def predictions(self) -> list[dict[str, int]]:
        return [json.loads(line) for line in (self.dir / "predictions.jsonl").read_text().splitlines()]

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.dir / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    @property
    def losses(self) -> list[float]:
        return [event["loss"] for event in self.events("log")]


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, shared_cache: str) -> Callable[..., Job]:
    """Run `ascend-launch --nproc N --device cpu RECIPE WORDS…` in the checkout."""
    done: dict[tuple[Any, ...], Job] = {}

    def run(nproc: int, *words: str, recipe: str | Path = "recipes/tiny-cpu.yaml") -> Job:
        key = (nproc, *words, str(recipe))
        if key not in done:
            folder = tmp_path_factory.mktemp("run")
            done[key] = _run(nproc, words, recipe, folder, {"ASCEND_LAUNCH_CACHE": shared_cache, "HF_HUB_OFFLINE": "1"})
        return done[key]

    return run


def _run(nproc: int, words: tuple[str, ...], recipe: str | Path, folder: Path, env: dict[str, str]) -> Job:
    argv = [sys.executable, "-m", "launcher.cli", "--nproc", str(nproc), "--device", "cpu", "--run-dir", str(folder)]
    base = {k: v for k, v in os.environ.items() if not k.startswith(("ASCEND_", "ACCELERATE_", "RANK", "WORLD_SIZE"))}
    base["ASCEND_LAUNCH_REPORT"] = "false"  # an eighth of such a launch's CPU
    # The toy model gains nothing from threads, and on a busy machine threads that wait for each other take minutes.
    base["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [*argv, str(recipe), *words], cwd=REPO, env={**base, **env, "PYTHONPATH": str(REPO)},
        capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Job(done.returncode, done.stdout, done.stderr, folder)
