"""The virtual machine that these tests run their programs on."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
RUN = REPO / "tools" / "emulated_cann" / "run"
PROGRAMS = Path(__file__).parent / "programs"

MISSING = [
    what
    for what, absent in (
        (
            "torch_npu is not installed (tests/npu/run makes an environment that has it)",
            importlib.util.find_spec("torch_npu") is None,
        ),
        ("there is no g++", shutil.which("g++") is None),
        (
            "the torch_npu wheel for x86_64 Linux is what the emulator was made for",
            sys.platform != "linux" or os.uname().machine != "x86_64",
        ),
    )
    if absent
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.npu)
            if MISSING and "machine" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason=MISSING[0]))


@dataclass(frozen=True)
class Ran:
    """A finished command: both streams together, as a terminal shows them."""

    code: int
    text: str


@dataclass(frozen=True)
class Machine:
    """One virtual machine, with a state of its own."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(
                (
                    "ASCEND",
                    "HCCL",
                    "EMULATED",
                    "HF_",
                    "ACCELERATE",
                    "TORCH_DEVICE",
                    "MASTER_",
                    "RANK",
                    "LOCAL_",
                    "WORLD_",
                )
            )
        }
        if built := os.environ.get("EMULATED_BUILD"):
            kept["EMULATED_BUILD"] = built
        return {
            **kept,
            "EMULATED_STATE": str(self.folder / "state"),
            "ASCEND_LAUNCH_CACHE": str(self.folder / "cache"),
            "ASCEND_LAUNCH_REPORT": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "hf"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPO),
            "OMP_NUM_THREADS": "1",
            **self.settings,
            **more,
        }

    def __call__(self, *argv: str | Path, timeout_s: float = 240, bare: bool = False, **env: str) -> Ran:
        """Run a command on the machine, or beside it where `bare`; its whole process group ends with it."""
        command = [str(a) for a in argv] if bare else [str(RUN), *map(str, argv)]
        child = subprocess.Popen(
            command,
            cwd=REPO,
            env=self.environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            text, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            text, _ = child.communicate()
            pytest.fail(f"{command} did not end in {timeout_s} s:\n{text[-4000:]}")
        return Ran(child.returncode, text)

    def program(self, name: str, *argv: str, **env: str) -> Ran:
        return self(sys.executable, PROGRAMS / name, *argv, **env)

    def python(self, code: str, **env: str) -> Ran:
        return self(sys.executable, "-c", code, **env)

    def launch(self, *argv: str | Path, bare: bool = False, **env: str) -> Ran:
        return self(sys.executable, "-m", "launcher.cli", *argv, bare=bare, **env)

    def using(self, **settings: str) -> Machine:
        return Machine(self.folder, {**self.settings, **settings})


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Eight 910B3 cards; the library is built on first use."""
    here = Machine(tmp_path_factory.mktemp("machine"))
    built = here("true", timeout_s=600)
    assert built.code == 0, built.text
    return here


def last_json(text: str) -> dict:
    """The JSON object that a program printed on a line of its own, last."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    assert lines, f"no JSON line in:\n{text[-4000:]}"
    return json.loads(lines[-1])
