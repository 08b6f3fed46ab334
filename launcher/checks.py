"""What a check sees, and what it says."""

from __future__ import annotations

import platform
import pwd
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from launcher import messages
from launcher.errors import LaunchError
from launcher.machine.cluster import Found
from launcher.machine.commands import RC_MISSING, Runner
from launcher.machine.processes import Processes
from launcher.messages import Message

Verdict = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    ok: Verdict
    what: str
    """One sentence with the value in it."""
    why: str = ""
    """What goes wrong if it stays so."""
    fix: str = ""

    def __post_init__(self) -> None:
        for name in ("what", "why", "fix"):
            object.__setattr__(self, name, messages.of(getattr(self, name), {}))

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Context:
    """Everything the checks look at. Plain values: no recipe or plan objects."""

    env: Mapping[str, str]
    device: str
    """The accelerator, by its name in launcher.accelerators.table."""
    found: Found
    """What npu.look saw of this node."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Installed packages; one that is missing is not in it."""
    python: tuple[int, int] = (sys.version_info[0], sys.version_info[1])
    root: Path = Path("/")
    """Where /dev, /proc, /sys and /usr/local are; another folder in tests."""
    run: Runner = lambda argv: (RC_MISSING, "")
    processes: Callable[[], Processes] = Processes
    """What is running, looked at when it is first asked for."""
    machine: str = platform.machine()
    nproc: int | None = None
    """Ranks wanted on this node."""
    num_nodes: int = 1
    rdzv_endpoint: str | None = None
    is_first_node: bool = True
    recognised: str = ""
    """The cluster's environment and the variables it was recognised by, as `plan` shows them; "" where there is none."""
    unreadable: LaunchError | None = None
    """Why a launch would refuse what the environment says of its nodes."""
    precision: str = "auto"
    strategy: str = "auto"
    output_dir: Path | None = None
    """Where checkpoints go: the run directory of a launch."""
    loader_workers: int = 0
    """DataLoader workers of each rank."""
    checkpoint_bytes: int | None = None
    """Space that one checkpoint takes."""
    host_bytes: int | None = None
    """Main memory that this node's ranks need together."""
    report_to: tuple[str, ...] = ()
    """Trackers that the recipe names."""
    model_name: str | None = None
    is_program: bool = False
    """Whether the job is the user's own program: what a recipe needs is then not asked for."""
    hub: str = "huggingface"
    needs: tuple[str, ...] | None = None
    """The packages that the job imports, by the names of BOUNDS; None where no job was named."""
    cuda: str = ""
    """The CUDA release that the installed torch was built for; "" for a build without CUDA."""

    def path(self, name: str) -> Path:
        """An absolute path below `root`."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """A file's text below `root`; "" where it cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


Check = Callable[[Context], Finding]

END_LEFTOVERS = "ascend-launch doctor --end-leftovers"
"""The command that ends what a job of this user's has left behind."""


def bound_ports(ctx: Context, ports: Iterable[int]) -> list[int]:
    """Those of `ports` on which somebody listens."""
    return sorted(set(ports) & _listening(ctx).keys())


def port_holder(ctx: Context, port: int, options: str = "") -> tuple[Message, Message]:
    """Who listens on a port, and how to end that, in words. `options`: those of the doctor by which it looks at this port."""
    seen = ctx.processes()
    process = seen.running.get(seen.listening.get(port, 0))
    if process is None:
        user = _user(_listening(ctx).get(port))
        return Message("a process of {user}", user=user), Message("have {user} end it", user=user)
    if seen.is_left_over(process):
        return seen.described(process), Message("{command}{options}", command=END_LEFTOVERS, options=options)
    return seen.described(process), Message("end it (kill {pid})", pid=process.pid)


def _listening(ctx: Context) -> dict[int, int | None]:
    """Ports that are listened on, and whose they are, from /proc/net/tcp and tcp6: nothing is opened to find out."""
    found: dict[int, int | None] = {}
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in ctx.text(file).splitlines()[1:]:
            cells = line.split()
            if len(cells) > 3 and cells[3] == "0A":  # TCP_LISTEN
                uid = cells[7] if len(cells) > 7 and cells[7].isdigit() else None
                found[int(cells[1].rpartition(":")[2], 16)] = None if uid is None else int(uid)
    return found


def _user(uid: int | None) -> str:
    if uid is None:
        return Message("another user")
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def ok(name: str, what: str) -> Finding:
    return Finding(name, "ok", what)


def skip(name: str, what: str) -> Finding:
    return Finding(name, "skip", what)
