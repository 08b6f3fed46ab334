"""Plan → an accelerate config that `accelerate launch --config_file` takes as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from launcher.machine.nodes import split_endpoint
from launcher.planning.plan import Plan


def config(plan: Plan, deepspeed_path: Path, node_rank: int = 0) -> dict[str, Any]:
    """The config of the plan's strategy, filled in for this job.

    With a DeepSpeed file, precision, accumulation and clipping stay out: accelerate 1.15 raises when either side
    repeats them (utils/dataclasses.py, _deepspeed_config_checks). Keys it reads from no YAML (rdzv_backend,
    same_network, enable_cpu_affinity) stay out too.
    """
    out = plan.sharing.accelerate_template() | {
        "mixed_precision": {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}[plan.precision],
        "num_machines": plan.num_nodes,
        "num_processes": plan.world_size,
        "machine_rank": node_rank,
    }
    out = plan.sharing.accelerate_config(out, plan, deepspeed_path)
    if plan.num_nodes > 1 and plan.rdzv_endpoint:
        out["main_process_ip"], out["main_process_port"] = split_endpoint(plan.rdzv_endpoint)
    elif plan.world_size > 1:
        out["main_process_port"] = 0  # a free one: 29500 may belong to another job
    return out


def text(plan: Plan, deepspeed_path: Path, node_rank: int = 0) -> str:
    """accelerate.yaml, with a head that says who made it."""
    head = f"# Made by ascend-launch for {plan.name}: {plan.strategy}, {plan.world_size} ranks on {plan.device}.\n"
    if plan.num_nodes > 1:
        head += f"# This is node {node_rank}'s; on every other node only machine_rank differs.\n"
    return head + yaml.safe_dump(config(plan, deepspeed_path, node_rank), sort_keys=False, allow_unicode=True)
