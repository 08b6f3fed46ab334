"""Start a job that is going to fail, and look at what it leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import launch as launching
from tests.support.launch import REPO
from tests.support.run import Running as Started

INJECT = Path(__file__).parent / "inject"


class Running(Started):
    """A launched job, in which a fault may happen: FAULT says which, see inject/."""

    def __init__(
        self,
        folder: Path,
        words: tuple[str, ...],
        env: dict[str, str],
        prefix: list[str],
        cwd: Path = REPO,
        **options: Any,
    ) -> None:
        full = launching.environment(**{"PYTHONPATH": f"{INJECT}:{REPO}", **env})
        super().__init__(folder, words, full, prefix, cwd, **options)


@pytest.fixture
def launch(tmp_path_factory: pytest.TempPathFactory, shared_cache: str) -> Iterator[Callable[..., Running]]:
    """Start `ascend-launch --device cpu … tiny-cpu WORDS`; whatever is left is killed at the end of the test."""
    jobs: list[Running] = []

    def start(
        *words: str,
        fault: str = "",
        folder: Path | None = None,
        prefix: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
        **env: str,
    ) -> Running:
        folder = folder or tmp_path_factory.mktemp("fault")
        options = [w for w in words if w.startswith("--")]
        overrides = [w for w in words if not w.startswith("--")]
        env |= {"ASCEND_LAUNCH_CACHE": shared_cache, **({"FAULT": fault} if fault else {})}
        recipe = next((w for w in overrides if w.endswith(".yaml")), "recipes/tiny-cpu.yaml")
        rest = [w for w in overrides if not w.endswith(".yaml")]
        jobs.append(Running(folder, (*options, recipe, *rest), env, list(prefix), pass_fds=pass_fds))
        return jobs[-1]

    yield start
    for one in jobs:
        for process in [*one.leftovers(), one.process]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
