"""Start the launcher, or another program of the checkout, from a test.

ASCEND_TESTS_COLD=1 has each process import everything by itself, as a user's does; otherwise they are forked from one that
has, see warm.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import warm

REPO = Path(__file__).resolve().parents[2]
OF_A_JOB = (
    "ASCEND",
    "ACCELERATE_",
    "EMULATED",
    "FAULT",
    "GLOO_",
    "HCCL",
    "HF_",
    "LOCAL_",
    "MASTER_",
    "PYTEST",
    "RANK",
    "TORCH_DEVICE",
    "WORLD_",
)
"""What a test must not inherit from the shell that it runs in."""
AT_IMPORT = {
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
}
"""As launcher/render/env.py sets them for an agent of CPU ranks."""
_interpreters: dict[str, warm.Interpreter] = {}


def environment(**more: str) -> dict[str, str]:
    """This shell's, less what belongs to a job, for one that neither asks a hub nor draws a report."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_JOB)}
    return {**kept, "HF_HUB_OFFLINE": "1", "ASCEND_LAUNCH_REPORT": "false", "PYTHONPATH": str(REPO), **more}


def command(*words: str | Path, python: str | Path = sys.executable) -> list[str]:
    return [str(python), "-m", "launcher.cli", *map(str, words)]


def popen(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    kind: str = "",
    at_import: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen[Any]:
    """As subprocess.Popen. `at_import` is the environment that an interpreter of this kind is started in."""
    options = {"cwd": REPO, **options}
    if argv[0] != sys.executable or "ASCEND_TESTS_COLD" in os.environ:
        return subprocess.Popen(argv, env=env, **options)
    kind = kind or ("cpu-zero" if any("strategy=zero" in word for word in argv) else "cpu")
    if kind not in _interpreters:
        _interpreters[kind] = warm.Interpreter(kind, at_import or environment(**AT_IMPORT))
    return _interpreters[kind].popen(argv, env=env, **options)


def run(
    argv: Sequence[str], env: Mapping[str, str], *, timeout_s: float, text: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run, with both streams captured."""
    stdin = subprocess.DEVNULL if text is None else subprocess.PIPE
    with popen(
        argv, env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", **options
    ) as process:
        try:
            out, err = process.communicate(text, timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(list(argv), process.returncode, out, err)


def close() -> None:
    """End the processes that the others were forked from."""
    while _interpreters:
        _interpreters.popitem()[1].close()
