"""DeepSpeed's compiled operators: its CPU optimizer is built once a machine under a lock where a plan needs it, and loaded
once a node before ranks are forked; nothing else is built."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.planning.plan import Plan

BUILD_TIMEOUT_S = 1800


def build_nothing_unasked() -> None:
    """Keep DeepSpeed from building its shared-memory collectives on a CPU host, which only inference calls.

    Its backend asks one table whether it can, and the table is filled by running compilers for every operator there is
    (comm/torch.py `build_shm_op`, ops/__init__.py `_probe_compatible_ops` of 0.19.8). Nothing else reads that table.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = defaultdict(bool)  # 0.18 and older ask it by index


def load(plan: Plan, say: Callable[[str], None]) -> None:
    """Build the CPU optimizer where a card offloads its optimizer state and it is missing, and load it. `say` gets a
    sentence before the build.

    A loaded operator is inherited by forked ranks. Other jobs on this machine wait for the one that builds.

    Raises:
        LaunchError: no C++ compiler, another job builds for half an hour, or the compiler fails.
    """
    if not plan.sharing.offloads_optimizer or not plan.accelerator.has_cards:
        return
    from deepspeed.accelerator import get_accelerator

    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    builder = get_accelerator().create_op_builder("CPUAdamBuilder")
    if not any(folder.glob(f"**/{builder.name}/*.so")):
        _require_compiler()
        # Measured, cold; shown so that a first launch does not look hung.
        say(
            Message(
                "building DeepSpeed's {builder} for this machine, once: about 3.5 minutes on two cores",
                builder=builder.name,
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{builder.name}.lock", timeout=BUILD_TIMEOUT_S):
            builder.load(verbose=False)
    except Timeout:
        raise LaunchError(
            "another job has been building DeepSpeed's {builder} for {build_timeout_s} minutes",
            hint="end it, or remove {folder}",
            builder=builder.name,
            build_timeout_s=BUILD_TIMEOUT_S // 60,
            folder=folder / builder.name,
        ) from None
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise LaunchError(
            "DeepSpeed's {builder} does not build: {splitline}",
            hint="see the compiler's output in the log above; then remove {folder} and launch again",
            builder=builder.name,
            splitline=str(error).splitlines()[0],
            folder=folder / builder.name,
        ) from error


def _require_compiler() -> None:
    compiler = os.environ.get("CXX", "c++")
    missing = [tool for tool in (compiler, "ninja") if shutil.which(tool) is None]
    if missing:
        raise LaunchError(
            "DeepSpeed must build CPUAdam on this machine, and {missing} is missing",
            hint="install g++ and ninja (apt install g++ ninja-build; pip install ninja), or use a "
            "parallel.strategy without offload, which needs neither",
            missing=" and ".join(missing),
        )
