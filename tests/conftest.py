"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import launch
from tests.support.run import Ran

pytest_plugins = ["tests.support.cost", "tests.support.skips"]

# A shell that starts the tests in the background has them ignore ^C, and every process they start inherits that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).resolve().parent.parent
RECIPES = REPO / "recipes"

MINIMAL: dict[str, Any] = {
    "model": {"name": "org/model", "num_labels": 5},
    "data": {"path": "json", "data_files": {"train": "a.jsonl", "test": "b.jsonl"}},
}


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ASCEND_LAUNCH_CACHE is set to for jobs that may find what others have prepared."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe: the minimal one, with the sections given merged over it."""

    def write(name: str = "mine.yaml", /, **sections: Any) -> Path:
        value = {key: dict(section) for key, section in MINIMAL.items()}
        for key, section in sections.items():
            value[key] = {**value.get(key, {}), **section} if isinstance(section, dict) else section
        path = tmp_path / name
        path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture(params=["plain", "with space", "quote'\"", "$(touch pwned)", "semi;colon", "中文", "new\nline"])
def awkward_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder whose name breaks shells, YAML and JSON that are put together by hand."""
    folder = tmp_path / request.param
    folder.mkdir()
    return folder


@pytest.fixture
def ascend_launch(tmp_path: Path, shared_cache: str) -> Callable[..., Ran]:
    """Run the real command line, away from the user's own settings."""

    def run(*argv: str | Path, cwd: Path = REPO, timeout_s: float = 600, **env: str) -> Ran:
        base = {k: v for k, v in os.environ.items() if not k.startswith(("ASCEND", "HCCL", "HF_", "RANK", "WORLD_"))}
        base |= {
            "ASCEND_LAUNCH_CACHE": shared_cache,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "hf"),
            "PYTHONPATH": str(REPO),
            **env,
        }
        done = subprocess.run(
            [sys.executable, "-m", "launcher.cli", *map(str, argv)],
            cwd=cwd,
            env=base,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def operations() -> Callable[[Callable[[], Any]], int]:
    """Counts the bytecodes that a call runs: how much work it is, and not how long this machine takes over it."""

    def count(work: Callable[[], Any]) -> int:
        number = 0

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal number
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            number += event == "opcode"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(before)
        return number

    return count


def pytest_sessionfinish() -> None:
    launch.close()
