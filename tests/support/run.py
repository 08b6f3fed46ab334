"""Read a run directory, finished or at work, and follow the job that writes it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.support import launch

if TYPE_CHECKING:
    import torch

TIMEOUT_S = 300
TIMES = ("runtime", "per_second")


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    code: int
    out: str
    err: str


@dataclass
class Run:
    """A run directory."""

    dir: Path

    def read(self, name: str) -> Any:
        return json.loads((self.dir / name).read_text(encoding="utf-8"))

    def lines(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.dir / name).read_text(encoding="utf-8").splitlines()]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.read("metrics.json")

    @property
    def figures(self) -> dict[str, Any]:
        """All of metrics.json but for times."""
        return timeless(self.metrics)

    @property
    def failure(self) -> dict[str, Any]:
        return self.read("failure.json")

    @property
    def predictions(self) -> list[dict[str, Any]]:
        return self.lines("predictions.jsonl")

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Events of a kind, or all; none before there is a file."""
        try:
            return [event for event in self.lines("events.jsonl") if kind in (None, event["event"])]
        except FileNotFoundError:
            return []

    @property
    def losses(self) -> list[float]:
        return list(self.losses_by_step.values())

    @property
    def losses_by_step(self) -> dict[int, float]:
        return {event["step"]: event["loss"] for event in self.events("log")}

    @property
    def notes(self) -> str:
        return "\n".join(event["text"] for event in self.events("note"))

    @property
    def checkpoints(self) -> list[int]:
        """The steps of those that there are."""
        return sorted(int(path.name.rpartition("-")[2]) for path in (self.dir / "checkpoints").iterdir())

    @property
    def model_bytes(self) -> bytes:
        return (self.dir / "model" / "model.safetensors").read_bytes()

    def weights(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(self.dir / "model" / "model.safetensors")

    def outcome(self) -> tuple[Any, str, dict[int, float]]:
        """What must not depend on an interruption, but for the weights."""
        return self.figures, (self.dir / "predictions.jsonl").read_text(), self.losses_by_step

    def leftovers(self) -> list[psutil.Process]:
        """Processes of this job that are alive: what an agent forks has the agent's arguments, the run directory too."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.dir) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
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


def timeless(value: Any) -> Any:
    """Figures without those of the clock."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not any(word in k for word in TIMES)}
    return [timeless(v) for v in value] if isinstance(value, list) else value


class Job(Run):
    """A finished job."""

    def __init__(self, code: int, out: str, err: str, dir: Path) -> None:
        super().__init__(dir)
        self.code, self.out, self.err = code, out, err


class Running(Run):
    """A launched job: its process, its run directory, and what it printed once it has ended."""

    def __init__(
        self,
        folder: Path,
        words: tuple[str, ...],
        env: Mapping[str, str],
        prefix: list[str],
        cwd: Path = launch.REPO,
        python: str | Path = sys.executable,
        **options: Any,
    ) -> None:
        super().__init__(folder)
        self.started_s = time.monotonic()
        # -m puts the working directory first, so that a copy of the launcher there is the one that runs.
        self.process = launch.popen(
            [*prefix, *launch.command("--device", "cpu", "--run-dir", folder, *words, python=python)],
            env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.env, self.cwd = env, cwd
        self.out = self.err = ""

    def wait(self) -> int:
        self.out, self.err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode

    def lose_display(self) -> None:
        """Close the window: SIGHUP, and nobody reads what is printed from here on."""
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.process.send_signal(signal.SIGHUP)

    def continued(self) -> subprocess.CompletedProcess[str]:
        """Paste the command that was printed at the end, and wait for it."""
        command = f"{self.out}\n{self.err}".partition("continue with:\n")[2].splitlines()[0]
        argv = ["bash", "-c", command]
        return subprocess.run(
            argv, cwd=self.cwd, env=self.env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )

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
