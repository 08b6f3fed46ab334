"""The one exception that users see, and the exit codes of every command."""

from __future__ import annotations

from typing import Any

from launcher.messages import Message, of

EXIT_OK = 0
EXIT_JOB_FAILED = 1
EXIT_USER = 2
EXIT_BUG = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class LaunchError(Exception):
    """Something the user can correct: what is wrong, where, and what to do.

    LaunchError("{path}: no such file", hint="create {path}", path=path): texts are templates, which are translated where
    they are shown; str(error) is English.

    `what` is one sentence with the offending value in it, prefixed by `file:line` where a file is at fault.
    `hint` is the next step. `exit_code` follows the table in the design: 1 the job failed, 2 the user must
    change something. `is_consequence`: every rank raises it, and another one is its cause. `values` fill both texts.
    """

    def __init__(
        self,
        what: str,
        /,
        *,
        hint: str = "",
        exit_code: int = EXIT_USER,
        is_consequence: bool = False,
        **values: Any,
    ) -> None:
        super().__init__(what)
        self.what = of(what, values)
        self.hint = of(hint, values)
        self.exit_code = exit_code
        self.is_consequence = is_consequence

    @property
    def message(self) -> Message:
        """Both, as they are shown."""
        return Message("{what}\n  fix: {hint}", what=self.what, hint=self.hint) if self.hint else self.what

    def __str__(self) -> str:
        return str(self.message)
