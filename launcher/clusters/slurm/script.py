"""Plan and allocation → a batch script for Slurm's sbatch. Text only: nothing here talks to Slurm."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher import __version__
from launcher.errors import LaunchError
from launcher.machine.nodes import is_number
from launcher.planning.plan import Plan
from launcher.rundir.paths import JOB_SECRET

SIGNAL_MARGIN_S = 60
"""Between the end of the ranks' grace and the job's end: Slurm may signal a minute late or early."""
WAIT_S = 60
"""From the first node's end to the others' being ended."""
MAX_REQUEUES = 200
"""A job whose time limit is too short to get anywhere must not go round for ever."""
_SECRET = (
    "# By which the nodes know each other's words: another one at each start, in the job's environment alone.",
    f'export {JOB_SECRET}="$(od -An -N32 -tx1 /dev/urandom | tr -d " \\n")"',
)
CANN_SET_ENV = ("/usr/local/Ascend/cann/set_env.sh", "/usr/local/Ascend/ascend-toolkit/set_env.sh")
"""Where CANN's installer puts it: 8.5 and later, and before."""


@dataclass(frozen=True)
class Allocation:
    """What is asked of Slurm, by sbatch's own options; None leaves it to the site."""

    job_name: str
    output: str
    """A path with Slurm's `%j`; a percent sign that is meant is doubled."""
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None
    constraint: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    exclusive: bool = False
    requeue: bool = True


@dataclass(frozen=True)
class Command:
    """What every node runs, and from where."""

    argv: Sequence[str]
    python: Path
    """The interpreter; its folder comes first on PATH, as an activated environment's does."""
    folder: Path
    cann: str | None = None
    """set_env.sh of the CANN to use; None looks in the usual places, '' sources none."""


def script(plan: Plan, allocation: Allocation, command: Command) -> str:
    """The batch script. Nothing of it depends on the environment that it is submitted from.

    Raises:
        LaunchError: a value cannot be said to Slurm, or the time limit leaves no time to train.
    """
    lead_s = math.ceil(plan.supervision.grace_s) + SIGNAL_MARGIN_S
    _require_time(allocation.time, lead_s)
    parts = [
        "#!/bin/bash",
        f"# Made by ascend-launch {__version__}: {plan.num_nodes} node{'s' if plan.num_nodes > 1 else ''} x "
        f"{plan.nproc_per_node} rank{'s' if plan.nproc_per_node > 1 else ''} on {plan.device}.",
        *_directives(plan, allocation, lead_s),
        "",
        f"cd -- {quote(str(command.folder))} || exit 2",
        f'export PATH={quote(str(command.python.parent))}:"$PATH"',
        *(_cann(command.cann) if plan.accelerator.needs_cann else []),
        "",
        *(_SECRET if plan.num_nodes > 1 else []),
        "# One agent a node, which starts the ranks itself: they must not be bound to one task's core. A node that fails",
        "# has the others told by the agents; what is left after a minute is ended. (--kill-on-bad-exit would end the",
        "# first node while it still explains the failure.)",
        *_srun(plan, allocation, command.argv),
        "code=$?",
    ]
    if allocation.requeue:
        parts += [
            "",
            "# 143: stopped by a signal, after saving (138: before it could listen). The job goes back to the queue, and",
            "# goes on from its checkpoint. `scancel` ends this script as well, and so is not undone here.",
            f'if {{ [ $code -eq 143 ] || [ $code -eq 138 ]; }} && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {MAX_REQUEUES} ]; then',
            '    scontrol requeue "$SLURM_JOB_ID"',
            "fi",
        ]
    return "\n".join([*parts, "exit $code", ""])


def _directives(plan: Plan, allocation: Allocation, lead_s: int) -> list[str]:
    values: dict[str, str | int | None] = {
        "job-name": allocation.job_name,
        "nodes": plan.num_nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": allocation.cpus_per_task,
        "gres": allocation.gres,
        "mem": allocation.mem,
        "time": allocation.time,
        "partition": allocation.partition,
        "account": allocation.account,
        "qos": allocation.qos,
        "constraint": allocation.constraint,
        "output": _output(allocation.output),
        "open-mode": "append",
        "signal": f"USR1@{lead_s}",
    }
    lines = [directive(name, str(value)) for name, value in values.items() if value is not None]
    lines += ["#SBATCH --exclusive"] if allocation.exclusive else []
    return [*lines, "#SBATCH --requeue" if allocation.requeue else "#SBATCH --no-requeue"]


def directive(name: str, value: str) -> str:
    """One #SBATCH line. sbatch reads it with rules of its own (`_get_argument` in its opt.c): quotes group, a backslash
    takes the next character as it is, `#` starts a comment, and a line ends where it ends.

    Raises:
        LaunchError: the value has a line break or another control character, which no such line can hold.
    """
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise LaunchError(
            "--{name} {value!r}: a line break or control character cannot be said to Slurm",
            hint="give another one with --{name}",
            name=name,
            value=value,
        )
    if value and re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", value):
        return f"#SBATCH --{name}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'#SBATCH --{name}="{escaped}"'


def _output(pattern: str) -> str:
    # A backslash anywhere turns Slurm's patterns off (fname_create in slurmd), and %j would stay as it is.
    if "\\" in pattern:
        raise LaunchError(
            "--output {pattern!r}: Slurm fills in no %j where a path holds a backslash",
            hint="give a path without one with --output",
            pattern=pattern,
        )
    return pattern


def cards(gres: str, name: str | None) -> int | None:
    """The cards of this name in a list of generic resources (`npu:8`, `npu:910b:8`, `gres/npu=8`, several joined by
    commas); None where it names none. A name alone is one (sbatch(1), --gres)."""
    resources = [re.split("[:=]", re.sub(r"^gres[:/]|\(.*", "", item.strip())) for item in gres.split(",")]
    counts = [words[-1] for words in resources if words[0] == name]
    return sum(int(count) if is_number(count) else 1 for count in counts) if counts else None


def plain(name: str) -> str:
    """A name for a job where nobody chose one: of the recipe's, what Slurm can hold."""
    return "".join("_" if ord(c) < 32 or ord(c) == 127 else c for c in name)


def literal(path: Path) -> str:
    """A path for --output in which no percent sign is a pattern."""
    return str(path).replace("%", "%%")


def filled(output: str, job: str) -> str:
    """The file that a pattern of --output names for a job, where it uses no other patterns than %j."""
    return re.sub(r"%([%j])", lambda m: job if m[1] == "j" else "%", output)


def quote(text: str) -> str:
    """One word of bash, on one line whatever is in it. Bytes that are no text (surrogates) pass as they are.

    Raises:
        LaunchError: it holds a NUL, which no argument of a program can.
    """
    if "\0" in text:
        raise LaunchError("{text!r}: holds a NUL", hint="leave it out", text=text)
    if not any(ord(c) < 32 or ord(c) == 127 for c in text):
        return shlex.quote(text)
    # \ooo: three octal digits, so that a digit that follows is not taken for part of it.
    escaped = (f"\\{ord(c):03o}" if ord(c) < 32 or ord(c) == 127 else f"\\{c}" if c in "\\'" else c for c in text)
    return "$'" + "".join(escaped) + "'"


def _cann(set_env: str | None) -> list[str]:
    if set_env == "":
        return []
    if set_env is not None:
        return [f"source {quote(set_env)} || exit 2"]
    return [
        "# CANN, where the submitting shell had none: the first of its usual places.",
        'if [ -z "$ASCEND_HOME_PATH" ]; then',
        f"    for file in {' '.join(map(quote, CANN_SET_ENV))}; do",
        '        if [ -f "$file" ]; then source "$file"; break; fi',
        "    done",
        "fi",
    ]


def _srun(plan: Plan, allocation: Allocation, argv: Sequence[str]) -> list[str]:
    # Since 22.05 srun does not take over --cpus-per-task; and a site's SBATCH_EXPORT=NONE would reach srun too.
    cpus = f" --cpus-per-task={allocation.cpus_per_task}" if allocation.cpus_per_task else ""
    head = f"srun --nodes={plan.num_nodes} --ntasks-per-node=1{cpus} --cpu-bind=none --export=ALL"
    return [f"{head} --kill-on-bad-exit=0 --wait={WAIT_S} \\", "    " + " ".join(map(quote, argv))]


def _require_time(limit: str | None, lead_s: int) -> None:
    if limit is None:
        return
    limit_s = seconds(limit)
    if limit_s is not None and limit_s <= 2 * lead_s:
        raise LaunchError(
            "--time {limit}: the job would be asked to save {lead_s} s before its end, and hardly train",
            hint="give more than {ceil} minutes, or less --grace",
            limit=limit,
            lead_s=lead_s,
            ceil=math.ceil(2 * lead_s / 60),
        )


def seconds(limit: str) -> float | None:
    """Slurm's time limit in seconds; None for no limit.

    Raises:
        LaunchError: it is none of Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S, UNLIMITED.
    """
    if limit.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit, re.ASCII)
    if match is None:
        raise LaunchError(
            "--time {limit!r} is not a Slurm time limit",
            hint="write 90 (minutes), 1:30:00 or 1-12:00:00",
            limit=limit,
        )
    days, *rest = match.groups()
    numbers = [int(n) for n in rest if n is not None]
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, secs = (*numbers, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + secs
