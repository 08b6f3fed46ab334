"""A scheduler's own client, asked once."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

from launcher.errors import LaunchError

CLIENT_TIMEOUT_S = 120


def client(argv: list[str], env: Mapping[str, str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv, env=dict(env), input=stdin, capture_output=True, timeout=CLIENT_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        where = "a login node of the cluster" if argv[0] != "kubectl" else "a machine that has kubectl"
        raise LaunchError(
            f"{argv[0]} is not on PATH", hint=f"submit from {where}; `--dry-run` shows what would be submitted"
        ) from None
    except PermissionError as error:
        raise LaunchError(f"{argv[0]} cannot be run: {error.strerror}", hint="check PATH") from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{argv[0]} gave no answer in {CLIENT_TIMEOUT_S} s", hint="try again later") from None


def client_output(program: str, stderr: bytes) -> str:
    """A client's complaint in one sentence, each part once and without the program's name."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    bare = [re.sub(rf"^{program}: (error|fatal): |^(error|Error from server[^:]*): ", "", line) for line in lines]
    return "; ".join(dict.fromkeys(bare)) or "it gives no reason"
