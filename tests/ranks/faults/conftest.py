"""Start a job that is going to fail, and look at what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

REPO = Path(__file__).resolve().parent.parent.parent.parent
INJECT = Path(__file__).parent / "inject"
TIMEOUT_S = 180


class Running:
    """A launched job: its process, its run directory, and what it printed once it has ended."""

    def __init__(
        self, folder: Path, words: tuple[str, ...], env: dict[str, str], prefix: list[str], cwd: Path = REPO
    ) -> None:
        self.dir = folder
        base = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("ASCEND_", "ACCELERATE_", "RANK", "WORLD_SIZE", "GLOO_"))
        }
        # -m puts the working directory first, so that a copy of the launcher there is the one that runs.
        base |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{INJECT}:{REPO}", "ASCEND_LAUNCH_REPORT": "false", **env}
        argv = [*prefix, sys.executable, "-m", "launcher.cli", "--device", "cpu", "--run-dir", str(folder), *words]
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=base,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        self.out = self.err = ""

    def wait(self) -> int:
        self.out, self.err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        try:
            lines = (self.dir / "events.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [e for e in map(json.loads, lines) if kind in (None, e["event"])]

    def until(self, kind: str, found: Callable[[dict[str, Any]], bool] = lambda e: True) -> dict[str, Any]:
        """The first such event, waited for."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            for event in self.events(kind):
                if found(event):
                    return event
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        raise AssertionError(f"no {kind} event in {TIMEOUT_S} s")

    @property
    def failure(self) -> dict[str, Any]:
        return json.loads((self.dir / "failure.json").read_text())

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.dir / "metrics.json").read_text())

    def leftovers(self) -> list[psutil.Process]:
        """Processes of this job that are alive: what an agent forks has the agent's arguments, the run directory too."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.dir) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def gone(self, within_s: float) -> bool:
        """Whether nothing of the job is left by then."""
        deadline = time.monotonic() + within_s
        while self.leftovers():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


@pytest.fixture
def launch(tmp_path_factory: pytest.TempPathFactory, shared_cache: str) -> Iterator[Callable[..., Running]]:
    """Start `ascend-launch --device cpu … tiny-cpu WORDS`; whatever is left is killed at the end of the test."""
    jobs: list[Running] = []

    def start(
        *words: str, fault: str = "", folder: Path | None = None, prefix: tuple[str, ...] = (), **env: str
    ) -> Running:
        folder = folder or tmp_path_factory.mktemp("fault")
        options = [w for w in words if w.startswith("--")]
        overrides = [w for w in words if not w.startswith("--")]
        env |= {"ASCEND_LAUNCH_CACHE": shared_cache, **({"FAULT": fault} if fault else {})}
        recipe = next((w for w in overrides if w.endswith(".yaml")), "recipes/tiny-cpu.yaml")
        rest = [w for w in overrides if not w.endswith(".yaml")]
        jobs.append(Running(folder, (*options, recipe, *rest), env, list(prefix)))
        return jobs[-1]

    yield start
    for one in jobs:
        for process in [*one.leftovers(), one.process]:
            try:
                process.send_signal(signal.SIGKILL)
            except (psutil.Error, ProcessLookupError):
                continue
