"""A scheduler's own client, asked once."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

from launcher.errors import LaunchError
from launcher.messages import Message

CLIENT_TIMEOUT_S = 120


def client(argv: list[str], env: Mapping[str, str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv, env=dict(env), input=stdin, capture_output=True, timeout=CLIENT_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        where = (
            Message("a login node of the cluster") if argv[0] != "kubectl" else Message("a machine that has kubectl")
        )
        raise LaunchError(
            "{argv} is not on PATH",
            hint="submit from {where}; `--dry-run` shows what would be submitted",
            argv=argv[0],
            where=where,
        ) from None
    except PermissionError as error:
        raise LaunchError(
            "{argv} cannot be run: {problem}", hint="check PATH", argv=argv[0], problem=error.strerror
        ) from None
    except subprocess.TimeoutExpired:
        raise LaunchError(
            "{argv} gave no answer in {client_timeout_s} s",
            hint="try again later",
            argv=argv[0],
            client_timeout_s=CLIENT_TIMEOUT_S,
        ) from None


def client_output(program: str, stderr: bytes) -> str:
    """A client's complaint in one sentence, each part once and without the program's name."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    bare = [re.sub(rf"^{program}: (error|fatal): |^(error|Error from server[^:]*): ", "", line) for line in lines]
    return "; ".join(dict.fromkeys(bare)) or Message("it gives no reason")
