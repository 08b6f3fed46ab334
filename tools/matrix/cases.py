"""What is run in each environment, and what of it is kept."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import ROOT, Environment

LIMIT_S = 900
STOP_AT_STEP = 5
SHORT = ("training.num_train_epochs=1", "training.logging_steps=1")
PROGRAMS = ROOT / "tests" / "ranks" / "programs"
RUN = ROOT / "tools" / "emulated_cann" / "run"
WITHOUT_NPU = """
import os, runpy, sys
sys.modules["torch_npu"] = None
sys.argv[:] = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Run a program that must not see a torch_npu: without CANN, transformers could not be imported. The launcher does it too."""
INHERITED = re.compile(r"ACCELERATE_|ASCEND|EMULATED|HCCL|HF_|LOCAL_|MASTER_|PYTHONPATH|RANK|TORCH_DEVICE|WORLD_|LD_")
"""Variables of this shell that a job must not get."""


@dataclass(frozen=True)
class Case:
    """A job of two ranks: a recipe's KEY=VALUE words, or a program and its arguments."""

    name: str
    words: tuple[str, ...]
    program: str = ""
    is_npu: bool = False
    is_resumed: bool = False
    like: str = ""
    """The case that trains the same model, whose losses these must be; those of a program are what torchrun gives there."""


@dataclass
class Result:
    """How a case ended: passed, refused or failed; what it printed about that; its first and last loss."""

    outcome: str
    seconds: float = 0.0
    says: str = ""
    losses: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"outcome": self.outcome, "seconds": round(self.seconds)}
        row |= {name: round(loss, 6) for name, loss in zip(("first_loss", "last_loss"), self.losses, strict=False)}
        return row | ({"says": self.says} if self.says else {})


def _recipe(name: str, strategy: str, *more: str, is_npu: bool = False, is_resumed: bool = False) -> Case:
    like = "lora" if more else "ddp"
    return Case(name, (f"parallel.strategy={strategy}", *more, *SHORT), "", is_npu, is_resumed, like)


TRAINER = (
    *("--model_name_or_path", str(ROOT / "recipes" / "tiny"), "--output_dir", "out", "--max_steps", "6"),
    *("--per_device_train_batch_size", "2", "--logging_steps", "1", "--learning_rate", "0.01", "--report_to", "none"),
    *("--save_strategy", "no", "--use_cpu"),
)
CASES = (
    Case("program", ("--lr", "0.01"), "ddp.py"),
    Case("trainer", TRAINER, "hf_trainer.py"),
    _recipe("ddp", "ddp"),
    _recipe("zero2", "zero2"),
    _recipe("zero3", "zero3"),
    _recipe("fsdp2", "fsdp2"),
    _recipe("lora", "ddp", "adapter.type=lora", "adapter.r=4"),
    _recipe("zero2-resume", "zero2", is_resumed=True),
    _recipe("fsdp2-resume", "fsdp2", is_resumed=True),
    Case("npu-program", ("--lr", "0.01", "--device", "npu"), "ddp.py", is_npu=True, like="program"),
    _recipe("npu-ddp", "ddp", is_npu=True),
    _recipe("npu-zero2", "zero2", is_npu=True),
    _recipe("npu-zero3", "zero3", is_npu=True),
    _recipe("npu-fsdp2", "fsdp2", is_npu=True),
)


class Bench:
    """Runs cases in one environment, in a folder of their own."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.environment, self.folder = environment, folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def run(self, case: Case) -> Result:
        """Its process group ends with it."""
        began = time.monotonic()
        code, text = self._started(case)
        if case.is_resumed and code == 130:
            code, more = self._continued(text)
            text += more
        (self.folder / f"{case.name}.log").write_text(text)
        result = self._judged(case, code, text)
        result.seconds = time.monotonic() - began
        if result.outcome == "passed" and case.program and not case.is_npu:
            return self._beside_torchrun(case, result)
        return result

    def _beside_torchrun(self, case: Case, result: Result) -> Result:
        """The same program under torchrun prints the same losses: another transformers may well begin with other weights."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
        python = str(self.environment.python)
        command = [python, *launcher, python, "-c", WITHOUT_NPU, str(PROGRAMS / case.program), *case.words]
        code, text = self._ran(command, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
        losses = list(_printed(text))
        if code or [losses[0], losses[-1]] != result.losses:
            return Result("failed", result.seconds, f"torchrun: exit code {code}, losses {losses}", result.losses)
        return result

    def _judged(self, case: Case, code: int, text: str) -> Result:
        text = text.replace(f"{self.folder}/", "")
        if code == 2:
            return Result("refused", says=_error(text))
        if code:
            return Result("failed", says=f"exit code {code}: {_error(text)}")
        losses = list(_printed(text) if case.program else self._logged(case))
        if len(losses) < STOP_AT_STEP:
            return Result("failed", says=f"{len(losses)} losses were logged")
        if case.is_resumed and not self._events(case, "resume"):
            return Result("failed", says="it did not go on from a checkpoint")
        return Result("passed", losses=[losses[0], losses[-1]])

    def _command(self, case: Case) -> list[str]:
        machine = [str(RUN)] if case.is_npu else []
        words = ["--device", "npu" if case.is_npu else "cpu", "--nproc", "2"]
        if case.program:
            job = ["--local-ranks-filter", "0", str(PROGRAMS / case.program)]
        else:
            job = ["--run-dir", case.name, "tiny-cpu"]
        return [*machine, str(self.environment.python), "-m", "launcher.cli", *words, *job, *case.words]

    def _env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not INHERITED.match(name)}
        own = {
            "ASCEND_LAUNCH_CACHE": self.folder / "cache",
            "ASCEND_LAUNCH_LANG": "en",
            "ASCEND_LAUNCH_REPORT": "false",
            "EMULATED_BUILD": self.folder.parent / "emulated",
            "EMULATED_STATE": self.folder / "cards",
            "HF_HOME": self.folder / "hf",
            "HF_HUB_OFFLINE": 1,
            "OMP_NUM_THREADS": 1,
            "OPENBLAS_NUM_THREADS": 1,
            "PYTHONPATH": ROOT,
            "PATH": f"{self.environment.folder / 'bin'}:{os.environ['PATH']}",
        }
        return {**kept, **{name: str(value) for name, value in own.items()}}

    def _started(self, case: Case) -> tuple[int, str]:
        """Interrupted at a step where it is to be resumed."""
        with self._popen(self._command(case)) as process:
            if case.is_resumed:
                self._wait_for_step(case, process)
                process.send_signal(signal.SIGINT)
            return _ended(process)

    def _wait_for_step(self, case: Case, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            if any(event["step"] >= STOP_AT_STEP for event in self._events(case, "log")):
                return
            time.sleep(0.1)

    def _continued(self, text: str) -> tuple[int, str]:
        """The command that the interrupted job printed."""
        return self._ran(shlex.split(text.partition("continue with:\n")[2].splitlines()[0]))

    def _ran(self, command: list[str], **more: str) -> tuple[int, str]:
        with self._popen(command, **more) as process:
            return _ended(process)

    def _popen(self, command: list[str], **more: str) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        options = {"cwd": self.folder, "text": True, "errors": "replace", "start_new_session": True, **pipes}
        return subprocess.Popen(command, env={**self._env(), **more}, **options)

    def _events(self, case: Case, kind: str) -> list[dict[str, Any]]:
        path = self.folder / case.name / "events.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def _logged(self, case: Case) -> list[float]:
        return list({event["step"]: event["loss"] for event in self._events(case, "log")}.values())


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        text, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        return 124, f"{text}\nerror: it had not ended after {LIMIT_S} s\n"
    return process.returncode, text


def _printed(text: str) -> Iterator[float]:
    """Losses of a program, a line each."""
    yield from (float(line.split()[1].strip("'")) for line in text.splitlines() if line.startswith("loss "))


def _error(text: str) -> str:
    """What it said was wrong and how to correct it, or the end of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("error:", "fix:"))]
    return " ".join((said or lines)[-2:])[-400:]
