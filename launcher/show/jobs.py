"""Jobs of schedulers and of several hosts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from launcher.messages import Message
from launcher.show.console import out, print_json
from launcher.show.text import Text


def hosts(rows: Sequence[tuple[str, Sequence[str], Sequence[str], Sequence[str]]], cwd: str, as_json: bool) -> None:
    """What a launch by ssh would run on each host: name, local command, remote arguments, variables sent over."""
    if as_json:
        keys = ("host", "command", "words", "variables")
        print(print_json({"folder": cwd, "hosts": [dict(zip(keys, row, strict=True)) for row in rows]}))
        return
    for name, command, words, variables in rows:
        out.print(Text(name, style="bold"))
        out.print(Text(Message("  here       {command}", command=shlex.join(command))))
        out.print(
            Text(
                Message(
                    "  there      cd {cwd} && {value}",
                    cwd=shlex.quote(cwd),
                    value=shlex.join(["ascend-launch", *words]),
                )
            )
        )
        out.print(Text(Message("  variables  {variables}", variables=", ".join(variables) or "none")))
    out.print(
        Text(Message("\nnothing was started or written; no host was asked whether it has these files and folders"))
    )
