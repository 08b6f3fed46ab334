"""Programs that are asked about the machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence

Runner = Callable[[Sequence[str]], "tuple[int, str]"]
"""argv → (exit status, stdout and stderr together). 127: no such command. 124: no answer in time."""


RC_TIMEOUT, RC_MISSING = 124, 127


def runner(env: Mapping[str, str] | None = None, timeout_s: float = 10.0) -> Runner:
    """A Runner over real processes. LC_ALL=C, since npu-smi translates; a timeout, since it can hang on a sick card."""
    full_env = {**(os.environ if env is None else env), "LC_ALL": "C"}

    def run(argv: Sequence[str]) -> tuple[int, str]:
        try:
            done = subprocess.run(
                list(argv),
                env=full_env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError:
            return RC_MISSING, ""
        except PermissionError as error:
            return 126, str(error)
        except subprocess.TimeoutExpired as error:
            return RC_TIMEOUT, (error.stdout or b"").decode(errors="replace")
        return done.returncode, done.stdout.decode(errors="replace")

    return run
