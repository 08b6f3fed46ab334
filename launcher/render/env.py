"""Plan → the environment of every rank: each variable with its value and the reason for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher import assets, scrub
from launcher.accelerators.variables import Row, Variable
from launcher.messages import Message
from launcher.planning.plan import Plan

RECORDED = (
    "ACCELERATE_",
    "ACL_",
    "ASCEND",
    "CPU_AFFINITY_CONF",
    "CUDA_VISIBLE_DEVICES",
    "DS_",
    "GLOO_",
    "HCCL_",
    "HF_",
    "INF_NAN_MODE_",
    "MASTER_",
    "MKL_",
    "MULTI_STREAM_",
    "NPU_",
    "OMP_",
    "OOM_SNAPSHOT",
    "P2P_HCCL",
    "PYTORCH_",
    "RANK_TABLE_FILE",
    "SLURM_JOB_ID",
    "SLURM_NNODES",
    "SLURM_NODEID",
    "STREAMS_PER_DEVICE",
    "TASK_QUEUE_ENABLE",
    "TOKENIZERS_",
    "TORCH",
    "TRANSFORMERS_",
)
"""Prefixes of the user's variables that env.json keeps. An allow-list: what is not named is not written."""

PASSED = (
    "ACL_",
    "ASCEND_",
    "COMBINED_ENABLE",
    "CPU_AFFINITY_CONF",
    "DS_",
    "GLOO_",
    "HCCL_",
    "HF_",
    "HUGGING_FACE_HUB_TOKEN",
    "INF_NAN_MODE_",
    "MKL_",
    "MODELSCOPE_",
    "MULTI_STREAM_",
    "NPU_",
    "OMP_",
    "OOM_SNAPSHOT",
    "P2P_HCCL",
    "PYTORCH_",
    "STREAMS_PER_DEVICE",
    "TASK_QUEUE_ENABLE",
    "TOKENIZERS_",
    "TORCH",
    "TRANSFORMERS_",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
"""Prefixes of the user's variables that every host of a hostfile gets. The hub's token is among them: all ranks load
the model."""
FIRST_ONLY = ("WANDB_", "SWANLAB_", "CLEARML_", "COMET_", "MLFLOW_")
"""Trackers and their keys: rank 0 alone reports."""
PER_HOST = frozenset(
    {
        "ASCEND_AICPU_PATH",
        "ASCEND_DRIVER_PATH",
        "ASCEND_HOME_PATH",
        "ASCEND_LAUNCH_NNODES",
        "ASCEND_LAUNCH_NODE_RANK",
        "ASCEND_LAUNCH_NPROC",
        "ASCEND_LAUNCH_RDZV_ENDPOINT",
        "ASCEND_OPP_PATH",
        "ASCEND_RT_VISIBLE_DEVICES",
        "ASCEND_TOOLKIT_HOME",
        "HCCL_IF_IP",
        "HCCL_LOGIC_SUPERPOD_ID",
    }
)
"""What is true of one host alone: its address, its super pod, which of its cards are free, where its CANN is (its own
set_env.sh says), which node it is."""


def variables(plan: Plan, run_path: Path, user: Mapping[str, str], num_cpus: int | None = None) -> tuple[Variable, ...]:
    """What a launch sets, in the order it is shown. A variable that the user set keeps the user's value.

    Ranges, defaults and traps of each are Huawei's, from the HCCL, torch_npu and CANN documentation.
    """
    if plan.program is not None:
        rows = [
            row for row in _of_program(plan, run_path, num_cpus or usable_cpus()) if row[0] not in plan.accelerate_env
        ]
        return (
            *(
                Variable(n, user[n], "your own value", kept=True) if n in user else Variable(n, v, r)
                for n, v, r in rows
            ),
            *_of_accelerate(plan),
        )
    rows = list(_both(plan, num_cpus or usable_cpus()))
    accelerator = plan.accelerator
    rows += accelerator.variables(run_path, user, plan.driver_version)
    rows += accelerator.debug_variables() if plan.debug else []
    rows += _trackers(plan, run_path)
    out = [Variable(n, user[n], "your own value", kept=True) if n in user else Variable(n, v, r) for n, v, r in rows]
    return (*out, *accelerator.rank_table_variables(plan.rank_table))


def usable_cpus(root: Path = Path("/")) -> int:
    """Cores that this process may use: of its CPU set (a Slurm job's, taskset's), and no more than its container's quota.

    `root` is another folder in tests.
    """
    count = len(os.sched_getaffinity(0))
    places = (("sys/fs/cgroup/cpu.max",), ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    for names in places:  # cgroup v2 has "max 100000" or "800000 100000" there, v1 -1 where there is no quota
        try:
            quota, period = " ".join((root / name).read_text(encoding="ascii") for name in names).split()
            count = min(count, max(1, int(quota) // int(period))) if int(quota) > 0 else count
        except (OSError, ValueError):
            continue
    return count


def removed(plan: Plan, user: Mapping[str, str]) -> tuple[Variable, ...]:
    """What the user's environment has and ranks must not see."""
    return tuple(plan.accelerator.removed_variables(user, plan.rank_table))


def of_agent(plan: Plan, run_path: Path, user: Mapping[str, str]) -> dict[str, str]:
    """The whole environment that an agent starts in, and its ranks inherit: the user's, as `removed` and `variables` say."""
    gone = {row.name for row in removed(plan, user)}
    kept = {name: value for name, value in user.items() if name not in gone}
    return kept | {row.name: row.value for row in variables(plan, run_path, user)}


def passed(user: Mapping[str, str], named: Sequence[str] = ()) -> tuple[dict[str, str], dict[str, str]]:
    """What a launch by ssh takes along from the user's environment: to every host, and to the first one beyond that."""
    every = {n: v for n, v in user.items() if n in named or (n.startswith(PASSED) and n not in PER_HOST)}
    return every, {n: v for n, v in user.items() if n.startswith(FIRST_ONLY) and n not in every}


def _of_program(plan: Plan, run_path: Path, num_cpus: int) -> list[Row]:
    """The least that lets ranks be forked, meet and be explained. How the program trains is its own."""
    rows = [_threads(plan, num_cpus)]
    if plan.program is not None and plan.program.kind != "executable" and plan.supervision.start_method != "spawn":
        rows.append(_NUMPY)
    if plan.num_nodes == 1:
        rows.append(_LOOPBACK)
    return rows + plan.accelerator.program_variables(run_path)


def _of_accelerate(plan: Plan) -> tuple[Variable, ...]:
    """As accelerate launch does it: over a value of the user's."""
    if plan.accelerate is None:
        return ()
    reason = Message("what accelerate launch {version} sets", version=plan.accelerate.version).replace("  ", " ")
    return tuple(Variable(name, value, reason) for name, value in plan.accelerate_env.items())


def _threads(plan: Plan, num_cpus: int) -> Row:
    per_rank = max(1, num_cpus // plan.nproc_per_node)
    return ("OMP_NUM_THREADS", str(per_rank), "cores / ranks; unset, every rank would take all cores")


_NUMPY: Row = ("OPENBLAS_NUM_THREADS", "1", "numpy's own thread pool would not survive the fork of the ranks")
_LOOPBACK: Row = ("GLOO_SOCKET_IFNAME", "lo", "one node: gloo needs no network, and no host name that resolves")


def _both(plan: Plan, num_cpus: int) -> list[Row]:
    rows = [
        _threads(plan, num_cpus),
        _NUMPY,
        (
            "TOKENIZERS_PARALLELISM",
            "false",
            "rows are tokenised before ranks are forked; threads do not survive a fork",
        ),
        ("DS_ACCELERATOR", plan.accelerator.torch_name, "DeepSpeed otherwise guesses from which packages import"),
    ]
    if plan.sharing.needs_deepspeed:
        rows.append(
            (
                "TORCH_EXTENSIONS_DIR",
                str(assets.cache_dir() / "torch_extensions"),
                "DeepSpeed's operators are built once and kept",
            )
        )
    if plan.num_nodes == 1:
        rows.append(_LOOPBACK)
    return rows


def _trackers(plan: Plan, run_path: Path) -> list[Row]:
    places = {
        "tensorboard": ("TENSORBOARD_LOGGING_DIR", str(run_path / "tensorboard")),
        "wandb": ("WANDB_DIR", str(run_path)),
        "swanlab": ("SWANLAB_LOG_DIR", str(run_path / "swanlab")),
    }
    asked = report_to(plan.training_arguments)
    reason = "what it writes on this machine lies in the run directory"
    return [(*place, reason) for name, place in places.items() if name in asked or "all" in asked]


def report_to(training: Mapping[str, Any]) -> tuple[str, ...]:
    """The trackers that training arguments name."""
    asked = training.get("report_to") or ()
    names = [asked] if isinstance(asked, str) else asked
    return tuple(name for name in names if name != "none")


def record(rows: tuple[Variable, ...], user: Mapping[str, str], unset: tuple[Variable, ...] = ()) -> dict[str, object]:
    """env.json: what the launch sets, and which of the user's variables it inherits, secrets removed."""
    inherited = {n: v for n, v in sorted(user.items()) if n.startswith(RECORDED)}
    return {
        "set": [{"name": r.name, "value": hidden(r.name, r.value), "reason": r.reason} for r in rows if not r.kept],
        "unset": [{"name": r.name, "reason": r.reason} for r in unset],
        "inherited": {n: hidden(n, v) for n, v in inherited.items()},
    }


def hidden(name: str, value: str) -> str:
    """`value`, unless the name is a secret's or the value carries one inside (a token in a URL)."""
    return scrub.hidden(name, value)
