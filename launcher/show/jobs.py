"""Jobs of schedulers and of several hosts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.rundir import records
from launcher.show.console import err, out, print_json
from launcher.show.text import Text


def would_submit(text: str, plan: Plan, as_json: bool) -> None:
    """What would be submitted: alone on standard output, so that it can be kept and submitted by hand."""
    if as_json:
        print(print_json({"plan": plan.model_dump(mode="json"), "text": text}))
        return
    sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
    sys.stdout.flush()
    err.print(Text(Message("nothing was submitted or written")))


def created(made: str, job: str, run_dir: str, text: str, as_json: bool) -> None:
    """What kubectl made."""
    if as_json:
        more = {"run_dir": run_dir, "made": made.splitlines(), "text": text}
        print(print_json(records.Submitted(job=job, more=more).to_json(), indent=None))
        return
    out.print(Text(made))
    out.print(
        Text(
            Message(
                "run directory: {run_dir}, in the pods\nlogs: kubectl logs -f -l ascend-launch/job={job} --prefix",
                run_dir=run_dir,
                job=job,
            )
        )
    )


def hosts(rows: Sequence[tuple[str, Sequence[str], Sequence[str], Sequence[str]]], cwd: str, as_json: bool) -> None:
    """What a launch by ssh would run on each host: name, command here, words there, variables sent over."""
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
