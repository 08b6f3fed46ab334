"""Plan → the environment of every rank: each variable with its value and the reason for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import assets, scrub
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


@dataclass(frozen=True)
class Variable:
    """One variable of the ranks' environment. `kept` is true where the user's own value stands."""

    name: str
    value: str
    reason: str
    kept: bool = False


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
    rows += _npu(plan, run_path, user) if plan.device == "npu" else _cpu()
    rows += _debug(plan) if plan.debug and plan.device == "npu" else []
    rows += _trackers(plan, run_path)
    out = [Variable(n, user[n], "your own value", kept=True) if n in user else Variable(n, v, r) for n, v, r in rows]
    if plan.rank_table is not None:
        out.append(Variable(RANK_TABLE, plan.rank_table, "--rank-table: HCCL reads it instead of asking rank 0"))
    return tuple(out)


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
    """What the user's environment has and ranks must not see. The one exception to "your own value stays": HCCL takes a
    rank table of another job, or of this one before a card was exchanged, without a question until ranks hang."""
    inherited = user.get(RANK_TABLE)
    if plan.device != "npu" or not inherited or inherited == plan.rank_table:
        return ()
    return (Variable(RANK_TABLE, inherited, "inherited, and ranks need none; --rank-table FILE asks for one"),)


def of_agent(plan: Plan, run_path: Path, user: Mapping[str, str]) -> dict[str, str]:
    """The whole environment that an agent starts in, and its ranks inherit: the user's, as `removed` and `variables` say."""
    gone = {row.name for row in removed(plan, user)}
    kept = {name: value for name, value in user.items() if name not in gone}
    return kept | {row.name: row.value for row in variables(plan, run_path, user)}


RANK_TABLE = "RANK_TABLE_FILE"


def passed(user: Mapping[str, str], named: Sequence[str] = ()) -> tuple[dict[str, str], dict[str, str]]:
    """What a launch by ssh takes along from the user's environment: to every host, and to the first one beyond that."""
    every = {n: v for n, v in user.items() if n in named or (n.startswith(PASSED) and n not in PER_HOST)}
    return every, {n: v for n, v in user.items() if n.startswith(FIRST_ONLY) and n not in every}


Row = tuple[str, str, str]


def _of_program(plan: Plan, run_path: Path, num_cpus: int) -> list[Row]:
    """The least that lets ranks be forked, meet and be explained. How the program trains is its own."""
    rows = [_threads(plan, num_cpus)]
    if plan.program is not None and plan.program.kind != "executable" and plan.supervision.start_method != "spawn":
        rows.append(_NUMPY)
    if plan.num_nodes == 1:
        rows.append(_LOOPBACK)
    if plan.device == "cpu":
        return rows + _cpu()
    return rows + [
        row for row in _npu(plan, run_path, {}) if row[0] in ("ASCEND_PROCESS_LOG_PATH", "PYTORCH_HAL_BASED_NPU_CHECK")
    ]


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
        ("DS_ACCELERATOR", plan.device, "DeepSpeed otherwise guesses from which packages import"),
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


def _cpu() -> list[Row]:
    return [
        (
            "TORCH_DEVICE_BACKEND_AUTOLOAD",
            "0",
            "where torch_npu is installed without CANN, `import torch` itself fails",
        ),
    ]


def _npu(plan: Plan, run_path: Path, user: Mapping[str, str]) -> list[Row]:
    rows = [
        (
            "HCCL_CONNECT_TIMEOUT",
            "1200",
            "seconds for ranks to meet; the default 120 is less than loading an 8B model takes",
        ),
        ("HCCL_EXEC_TIMEOUT", "3600", "seconds for one collective; more than the connect timeout, as HCCL wants it"),
        (
            "ASCEND_PROCESS_LOG_PATH",
            str(run_path / "plog"),
            "CANN's logs lie beside this run's, where `explain` reads them",
        ),
        ("PYTORCH_HAL_BASED_NPU_CHECK", "1", "torch.npu.is_available() then opens no device, so ranks can be forked"),
    ]
    if "PYTORCH_ALLOC_CONF" not in user:  # torch_npu raises when both are set
        rows.append(_allocator(plan.driver_version))
    return rows


EXPANDABLE_SINCE = "24.1.rc3"
"""The driver (HDK) from which on expandable segments are taken. Huawei's documentation of PYTORCH_NPU_ALLOC_CONF asks for HDK
23.0.0, calls them experimental until CANN 8.0.RC3, and has limits that end with HDK 24.1.RC3; on older ones a job can end
in copy_d2d with 507001 (vllm-ascend issue 116)."""


def _allocator(driver: str | None) -> Row:
    name = "PYTORCH_NPU_ALLOC_CONF"
    if driver and _release(driver) < _release(EXPANDABLE_SINCE):
        reason = Message(
            "driver {driver} is older than {expandable_since}, where expandable segments can end a job with 507001",
            driver=driver,
            expandable_since=EXPANDABLE_SINCE,
        )
        return name, "expandable_segments:False", Message("{reason}; your own value stands", reason=reason)
    return (
        name,
        "expandable_segments:True",
        Message("less fragmentation: batches differ in length; should a job end with 507001, export it as False"),
    )


def _release(version: str) -> tuple[int, ...]:
    """23.0.rc2 < 23.0.0 < 23.0.3 < 24.1.rc3."""
    numbers = re.findall(r"\.?(rc)?(\d+)", version.lower())
    return tuple(part for rc, number in numbers for part in ((0, int(number)) if rc else (1, int(number))))


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


def _debug(plan: Plan) -> list[Row]:
    del plan
    return [
        (
            "ASCEND_LAUNCH_BLOCKING",
            "1",
            "debug: each operator ends before the next, so the traceback names the real one",
        ),
        ("TASK_QUEUE_ENABLE", "0", "debug: no queue between Python and the card"),
        ("ASCEND_GLOBAL_LOG_LEVEL", "1", "debug: CANN logs at INFO"),
    ]


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
