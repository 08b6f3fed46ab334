"""The one exception that users see, and the exit codes of every command."""

from __future__ import annotations

EXIT_OK = 0
EXIT_JOB_FAILED = 1
EXIT_USER = 2
EXIT_BUG = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class LaunchError(Exception):
    """Something the user can correct: what is wrong, where, and what to do.

    `what` is one sentence with the offending value in it, prefixed by `file:line` where a file is at fault.
    `hint` is the next step. `exit_code` follows the table in the design: 1 the job failed, 2 the user must
    change something. `is_consequence`: every rank raises it, and another one is its cause.
    """

    def __init__(self, what: str, *, hint: str = "", exit_code: int = EXIT_USER, is_consequence: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.exit_code = exit_code
        self.is_consequence = is_consequence

    def __str__(self) -> str:
        return f"{self.what}\n  fix: {self.hint}" if self.hint else self.what
