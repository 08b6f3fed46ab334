"""What accelerate launch sets for a program's ranks, asked of the accelerate that is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.recipe import yamlfile
from launcher.render import accelerate
from launcher.rundir.paths import RunDir

TIMEOUT_S = 300
_ASK = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; from launcher.worker import accelerated; accelerated.main()"
)
OURS = frozenset({"MASTER_ADDR", "MASTER_PORT", "TORCH_DEVICE_BACKEND_AUTOLOAD"})
"""Variables that each rank gets from the agent, or that are set for the question alone."""
PRECISIONS = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}


def config(path: Path) -> dict[str, Any]:
    """An accelerate config file's content, for what it says of ranks and machines.

    Raises:
        LaunchError: it cannot be read, or is not such a file.
    """
    content = yamlfile.load(path, "config").value
    if not isinstance(content, dict) or "distributed_type" not in content:
        raise LaunchError(
            "{path}: no accelerate config: it has no distributed_type", hint="`accelerate config` writes one", path=path
        )
    if content.get("gpu_ids") not in (None, "all"):
        raise LaunchError(
            "{path}: gpu_ids: {gpu_ids}: devices are named before ranks are counted here",
            hint="export ASCEND_RT_VISIBLE_DEVICES={gpu_ids}, and write gpu_ids: all",
            path=path,
            gpu_ids=content["gpu_ids"],
        )
    return content


def environment(plan: Plan, run: RunDir, user: Mapping[str, str], node_rank: int) -> Plan:
    """The plan with the variables that its settings for accelerate come to; as it is where it has none.

    Raises:
        LaunchError: accelerate is not installed, or refuses the settings.
    """
    asked = plan.accelerate
    if asked is None:
        return plan
    with tempfile.TemporaryDirectory(prefix="ascend-launch-") as folder:
        words = list(asked.words)
        if asked.renders:
            path = Path(folder, "accelerate.yaml")
            path.write_text(accelerate.text(plan, run.deepspeed_path.resolve(), node_rank), encoding="utf-8")
            words = ["--config_file", str(path), *words]
        answer = _answer([*words, *_machines(plan, node_rank)], plan, user)
    variables = {name: value for name, value in answer["set"].items() if name not in OURS}
    return plan.model_copy(
        update={"accelerate": asked.model_copy(update={"version": answer["version"]}), "accelerate_env": variables}
    )


def _machines(plan: Plan, node_rank: int) -> list[str]:
    """Ranks and machines as the plan has them. Port 0: the agent has one of its own, and accelerate would look at 29500."""
    words = ["--num_processes", str(plan.world_size), "--num_machines", str(plan.num_nodes)]
    words += ["--machine_rank", str(node_rank), "--main_process_ip", "127.0.0.1", "--main_process_port", "0"]
    return words + (["--deepspeed_multinode_launcher", "standard"] if plan.num_nodes > 1 else [])


def _answer(words: list[str], plan: Plan, user: Mapping[str, str]) -> dict[str, Any]:
    env = dict(user)
    if plan.accelerator.torch_extension is None:
        env["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # else torch_npu without CANN would end it
    program = plan.program.target if plan.program is not None else os.devnull
    done = subprocess.run(
        [sys.executable, "-c", _ASK, *words, program],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:  # argparse's own message, or a crash
        answer = {
            "error": (
                done.stderr.strip().splitlines() or [Message("exit code {returncode}", returncode=done.returncode)]
            )[-1]
        }
    if "error" in answer:
        raise _refused(answer["error"])
    return answer


def _refused(error: str) -> LaunchError:
    missing = error.startswith(("ModuleNotFoundError", "ImportError"))
    name = "deepspeed" if "eep" in error else "accelerate"
    return LaunchError(
        Message("accelerate launch refuses these settings: {error}", error=error),
        hint=Message("pip install {name}", name=name)
        if missing
        else "correct the accelerate config, or --accelerate-args",
    )
