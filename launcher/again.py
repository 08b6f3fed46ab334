"""The command that goes on with what was stopped, ready to be pasted where this one was typed."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "ascend-launch"


def command(words: Sequence[str]) -> str:
    """The arguments `words` after the name by which this program was started, quoted for a shell."""
    return shlex.join([*_program(), *words])


def _program() -> list[str]:
    count = len(sys.orig_argv) - len(sys.argv) + 1
    if sys.orig_argv[count:] != sys.argv[1:] or count < 1:
        return [PROGRAM]
    words = sys.orig_argv[:count]
    if Path(words[-1]).name != PROGRAM:
        return words  # as in `python -m launcher.cli`
    installed = shutil.which(PROGRAM)
    return [PROGRAM] if installed and Path(installed).samefile(words[-1]) else words[-1:]
