"""A tool of the rank side, run in an interpreter of its own: the command line never imports torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher import files
from launcher.errors import EXIT_JOB_FAILED, EXIT_OK, EXIT_USER, LaunchError
from launcher.messages import Message
from launcher.rundir import events


def tool(
    module: str,
    request: dict[str, Any],
    popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
) -> dict[str, Any]:
    """Have one process of the rank side carry out a request, and return its result. ^C ends it.

    Raises:
        LaunchError: what it said went wrong, or that it was killed.
    """
    with tempfile.TemporaryDirectory(prefix="ascend-launch-") as name:
        folder = Path(name)
        files.write_json(folder / "request.json", request)
        # Where torch_npu is installed without CANN, `import torch` itself would fail.
        env = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
        argv = [sys.executable, "-m", module, str(folder / "request.json")]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with popen(argv, env=env, **pipes) as process:
            try:
                _, stderr = process.communicate()
            except BaseException:
                process.kill()
                raise
        result, error = files.read_json(folder / "result.json"), events.read_failure(folder / "error.json")
    if result is not None and process.returncode == EXIT_OK:
        return dict(result)
    if error is not None and (error.hint or error.exit_code == EXIT_USER):
        code = EXIT_JOB_FAILED if error.exit_code is None else error.exit_code
        raise LaunchError(error.what or error.message, hint=error.hint, exit_code=code)
    words = error.traceback if error else stderr.decode(errors="replace")[-4000:]
    killed = (
        Message("was killed by {Signals}", Signals=signal.Signals(-process.returncode).name)
        if process.returncode < 0
        else "failed"
    )
    raise LaunchError(
        "{words}\n{module} {killed}", exit_code=EXIT_JOB_FAILED, words=words.rstrip(), module=module, killed=killed
    )
