"""The virtual machine that these tests run their programs on."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from tests.support import launch, warm
from tests.support.launch import REPO

RUN = REPO / "tools" / "emulated_cann" / "run"
PROGRAMS = Path(__file__).parent / "programs"
EMULATOR = module_from_spec(spec_from_loader("emulated_cann_run", SourceFileLoader("emulated_cann_run", str(RUN))))
EMULATOR.__loader__.exec_module(EMULATOR)
AT_IMPORT = {"": {}, "npu-bare": {}, "npu": {"HCCL_EXEC_TIMEOUT": "3600"}, "npu-zero": {"HCCL_EXEC_TIMEOUT": "3600"}}
"""What an interpreter of that kind has imported torch_npu with: launcher/render/env.py sets it for agents, and torch_npu reads
no other variable of those while it is imported."""


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


def on_machine(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that is started on the machine."""
    return dict(EMULATOR.environment(sys.executable, env))


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
        own = {
            "EMULATED_STATE": str(self.folder / "state"),
            "ASCEND_LAUNCH_CACHE": str(self.folder / "cache"),
            "HF_HOME": str(self.folder / "hf"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        if built := os.environ.get("EMULATED_BUILD"):
            own["EMULATED_BUILD"] = built
        return launch.environment(**{**own, **self.settings, **more})

    def __call__(
        self, *argv: str | Path, timeout_s: float = 240, bare: bool = False, kind: str = "", **env: str
    ) -> Ran:
        """Run a command on the machine, or beside it where `bare`; its whole process group ends with it.

        One of a `kind` is forked from an interpreter that has imported torch_npu, see tests/support/warm.py.
        """
        command, settings = [str(a) for a in argv], self.environment(**env)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        options = {"cwd": REPO, "text": True, "errors": "replace", "start_new_session": True, **pipes}
        there, at_import = (on_machine(e) if kind else {} for e in (settings, self.environment(**AT_IMPORT[kind])))
        # The launcher asks the same of its agent, whose environment it makes.
        if kind and (kind != "npu-bare" or warm.read_at_import(there) == warm.read_at_import(at_import)):
            child = launch.popen(command, there, kind=kind, at_import=at_import, **options)
        else:
            child = subprocess.Popen(command if bare else [str(RUN), *command], env=settings, **options)
        try:
            text, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            text, _ = child.communicate()
            pytest.fail(f"{command} did not end in {timeout_s} s:\n{text[-4000:]}")
        return Ran(child.returncode, text)

    def program(self, name: str, *argv: str, **env: str) -> Ran:
        return self(sys.executable, PROGRAMS / name, *argv, kind="npu-bare", **env)

    def python(self, code: str, **env: str) -> Ran:
        return self(sys.executable, "-c", code, kind="npu-bare", **env)

    def launch(self, *argv: str | Path, bare: bool = False, **env: str) -> Ran:
        kind = "npu-zero" if any("strategy=zero" in str(word) for word in argv) else "npu"
        return self(sys.executable, "-m", "launcher.cli", *argv, bare=bare, kind="" if bare else kind, **env)

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
