"""What a check sees, and what it says."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from launcher import messages
from launcher.errors import LaunchError
from launcher.machine.cluster import Found
from launcher.machine.commands import RC_MISSING, Runner

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


def ok(name: str, what: str) -> Finding:
    return Finding(name, "ok", what)


def skip(name: str, what: str) -> Finding:
    return Finding(name, "skip", what)
