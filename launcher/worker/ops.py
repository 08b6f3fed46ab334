"""DeepSpeed's compiled operators: those that a plan needs are built once a machine under a lock, and loaded once a node
before ranks are forked; nothing else is built."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from launcher.errors import LaunchError
from launcher.plan import Plan

BUILD_TIMEOUT_S = 1800
_SECONDS = {"CPUAdamBuilder": "about 3.5 minutes"}
"""Cold builds measured on two cores; shown so that a first launch does not look hung."""


def build_nothing_unasked() -> None:
    """Keep DeepSpeed from building its shared-memory collectives on a CPU host, which only inference calls.

    Its backend asks one table whether it can, and the table is filled by running compilers for every operator there is
    (comm/torch.py `build_shm_op`, ops/__init__.py `_probe_compatible_ops` of 0.19.8). Nothing else reads that table.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}


def needed(plan: Plan) -> tuple[str, ...]:
    """The builders this plan's engine loads: the CPU optimizer where a card offloads its optimizer state."""
    return ("CPUAdamBuilder",) if plan.strategy == "zero3-offload" and plan.device == "npu" else ()


def load(plan: Plan, say: Callable[[str], None]) -> None:
    """Build what is missing, and load everything. `say` gets a sentence before each build.

    A loaded operator is inherited by forked ranks. Other jobs on this machine wait for the one that builds.

    Raises:
        LaunchError: no C++ compiler, another job builds for half an hour, or the compiler fails.
    """
    names = needed(plan)
    if not names:
        return
    from deepspeed.accelerator import get_accelerator

    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    for name in names:
        builder = get_accelerator().create_op_builder(name)
        is_built = any(folder.glob(f"**/{builder.name}/*.so"))
        if not is_built:
            _require_compiler(name)
            say(f"building DeepSpeed's {builder.name} for this machine, once: {_SECONDS[name]} on two cores")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / f"{builder.name}.lock", timeout=BUILD_TIMEOUT_S):
                builder.load(verbose=False)
        except Timeout:
            raise LaunchError(
                f"another job has been building DeepSpeed's {builder.name} for {BUILD_TIMEOUT_S // 60} minutes",
                hint=f"end it, or remove {folder / builder.name}",
            ) from None
        except (RuntimeError, OSError) as error:
            raise LaunchError(
                f"DeepSpeed's {builder.name} does not build: {str(error).splitlines()[0]}",
                hint=f"see the compiler's words in the log above; then remove {folder / builder.name} and launch again",
            ) from error


def _require_compiler(name: str) -> None:
    compiler = os.environ.get("CXX", "c++")
    missing = [tool for tool in (compiler, "ninja") if shutil.which(tool) is None]
    if missing:
        raise LaunchError(
            f"DeepSpeed must build {name.removesuffix('Builder')} on this machine, and {' and '.join(missing)} is missing",
            hint="install g++ and ninja (apt install g++ ninja-build; pip install ninja), "
            "or use parallel.strategy=ddp, which needs neither",
        )
