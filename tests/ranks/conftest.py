"""Jobs of several real ranks over gloo, started by the command line; equal jobs are run once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import launch
from tests.support.launch import REPO
from tests.support.run import TIMEOUT_S, Job, Ran

__all__ = ["REPO", "TIMEOUT_S", "Job"]


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, shared_cache: str) -> Callable[..., Job]:
    """Run `ascend-launch --nproc N --device cpu RECIPE WORDS…` in the checkout."""
    done: dict[tuple[Any, ...], Job] = {}

    def run(nproc: int, *words: str, recipe: str | Path = "recipes/tiny-cpu.yaml") -> Job:
        key = (nproc, *words, str(recipe))
        if key not in done:
            folder = tmp_path_factory.mktemp("run")
            done[key] = _run(nproc, words, recipe, folder, {"ASCEND_LAUNCH_CACHE": shared_cache})
        return done[key]

    return run


def _run(nproc: int, words: tuple[str, ...], recipe: str | Path, folder: Path, env: dict[str, str]) -> Job:
    argv = launch.command("--nproc", str(nproc), "--device", "cpu", "--run-dir", folder, recipe, *words)
    # The toy model gains nothing from threads, and on a busy machine threads that wait for each other take minutes.
    ran = launch.run(argv, launch.environment(OMP_NUM_THREADS="1", **env), timeout_s=TIMEOUT_S)
    return Job(ran.returncode, ran.stdout, ran.stderr, folder)


@pytest.fixture
def ascend_launch(shared_cache: str) -> Callable[..., Ran]:
    """As the fixture of all tests, with imports shared."""

    def run(*argv: str | Path, cwd: Path = REPO, timeout_s: float = 600, **env: str) -> Ran:
        full = launch.environment(ASCEND_LAUNCH_CACHE=shared_cache, **env)
        del full["ASCEND_LAUNCH_REPORT"]
        done = launch.run(launch.command(*argv), full, cwd=cwd, timeout_s=timeout_s)
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
