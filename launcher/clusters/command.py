"""A scheduler's own client, asked once."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping

from launcher.errors import LaunchError
from launcher.messages import Message

CLIENT_TIMEOUT_S = 120


def client(
    argv: list[str], env: Mapping[str, str], stdin: bytes, where: str = Message("a machine that has it")
) -> subprocess.CompletedProcess[bytes]:
    """Its answer, and its exit code.

    Args:
        where: a machine on which it can be run, for the hint where it is missing here.

    Raises:
        LaunchError: it is missing, cannot be run, or does not answer.
    """
    try:
        return subprocess.run(
            argv, env=dict(env), input=stdin, capture_output=True, timeout=CLIENT_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
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


def refused(program: str, stderr: bytes, hints: Iterable[tuple[str, str]], otherwise: str) -> LaunchError:
    """What a client says of a job that it does not take, and what to do.

    Args:
        hints: a pattern of the client's output, and what to do; the first that fits counts.
        otherwise: what to do where none fits.
    """
    words = client_output(program, stderr)
    hint = next((hint for pattern, hint in hints if re.search(pattern, words, re.IGNORECASE)), otherwise)
    return LaunchError(Message("{program} refuses the job: {words}", program=program, words=words), hint=hint)


def client_output(program: str, stderr: bytes) -> str:
    """A client's complaint in one sentence, each part once and without the program's name."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    bare = [re.sub(rf"^{program}: (error|fatal): |^(error|Error from server[^:]*): ", "", line) for line in lines]
    return "; ".join(dict.fromkeys(bare)) or Message("it gives no reason")
