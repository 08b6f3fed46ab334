"""A wheel of this checkout, and what it takes to use it: built once, installed without its dependencies."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parents[2]


def quiet_pip(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """pip without a user's or a site's configuration."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    clean |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", **env}
    return subprocess.run(
        [sys.executable, "-m", "pip", *map(str, words)], env=clean, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as `pip install` would build it."""
    folder = tmp_path_factory.mktemp("wheel")
    # Built from the files of git alone: a folder full of runs and environments would be looked through.
    done = quiet_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, REPO)
    assert 0 == done.returncode, done.stderr
    (found,) = folder.glob("*.whl")
    return found


EACH = """
import json, sys
from click.testing import CliRunner
from launcher.cli import cli
from launcher.errors import LaunchError

def ran(words):
    done = CliRunner().invoke(cli, words, prog_name="ascend-launch")
    if isinstance(done.exception, LaunchError):
        return done.exception.exit_code, done.stdout, str(done.exception)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr

json.dump([ran(words) for words in json.load(sys.stdin)], sys.stdout)
"""


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Installed:
    """The wheel's files in a folder, and the folder of base dependencies alone."""

    site: Path
    bare: Path

    def __call__(
        self, *argv: str | Path, cwd: Path, bare: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """`ascend-launch ARGV` in `cwd`. `bare`: with the base dependencies, and nothing else that this environment has."""
        return self._python("-m", "launcher.cli", *map(str, argv), cwd=cwd, bare=bare, **env)

    def each(self, commands: list[list[str]], *, cwd: Path) -> list[Ran]:
        """Many commands that start nothing, one after another in one bare process: a process each would cost a second."""
        done = self._python("-c", EACH, cwd=cwd, bare=True, text=json.dumps(commands))
        assert 0 == done.returncode, done.stderr
        return [Ran(*row) for row in json.loads(done.stdout)]

    def _python(
        self, *argv: str, cwd: Path, bare: bool, text: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ASCEND", "HCCL", "HF_", "PYTHON"))}
        kept |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf"), **env}
        kept["PYTHONPATH"] = os.pathsep.join(map(str, (self.site, self.bare) if bare else (self.site,)))
        python = [sys.executable, "-S"] if bare else [sys.executable]  # -S: without this environment's packages
        return subprocess.run(
            [*python, *argv], cwd=cwd, env=kept, capture_output=True, text=True, timeout=300, input=text
        )


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """What `pip install ascend-launch` leaves."""
    site, bare = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("bare")
    done = quiet_pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    assert 0 == done.returncode, done.stderr
    (info,) = site.glob("ascend_launch-*.dist-info")
    for name in _closure(importlib.metadata.PathDistribution(info).requires or []):
        for file in importlib.metadata.files(name) or ():
            top = file.parts[0]
            source = Path(str(importlib.metadata.distribution(name).locate_file(top)))
            if top not in ("..", "__pycache__") and not (bare / top).exists():
                (bare / top).symlink_to(source)
    return Installed(site, bare)


def _closure(requirements: list[str]) -> set[str]:
    """Names of what these requirements bring, without extras, as this environment has it."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        need = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        if name in found or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += importlib.metadata.requires(name) or []
    return found
