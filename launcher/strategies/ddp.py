"""DDP: every rank holds everything, and gradients are averaged in buckets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.accelerators import table as accelerators
from launcher.strategies.base import Base
from launcher.strategies.job import Job
from launcher.strategies.table import Planned, Reduction, Speed


class Ddp(Base):
    """torch's DistributedDataParallel."""

    name = "ddp"
    engine = "launcher.worker.engines.ddp:Ddp"
    speed = Speed(1.0, 1.0)
    is_for_one_rank = True
    joins_cpu_ranks = True

    def ignored_arguments(self) -> Mapping[str, str]:
        return {}

    def accelerate_config(self, config: dict[str, Any], plan: Planned, deepspeed_path: Path) -> dict[str, Any]:
        accelerator = accelerators.load(plan.device)
        if plan.world_size == 1:
            # MULTI_NPU is torchrun, which one process does not need; accelerate starts it by itself.
            return config | {"distributed_type": "NO", "use_cpu": not accelerator.has_cards}
        if not accelerator.has_cards and plan.program is not None:
            # Nothing but ACCELERATE_USE_CPU has an Accelerator() meet its peers over gloo, and this type alone sets it.
            return config | {"distributed_type": "MULTI_CPU", "use_cpu": True}
        # MULTI_CPU starts one process whatever num_processes says. MULTI_GPU is accelerate's name for torchrun; CPU ranks
        # then choose gloo by TrainingArguments(use_cpu=True).
        return config | {"distributed_type": accelerator.accelerate_type}

    def gradients(self, job: Job) -> int:
        return 4 * job.num_trainable if job.ranks == 1 else 0  # in the buckets, which are resident

    def carried_gradients(self, job: Job) -> int:
        return 4 * job.num_trainable  # in no bucket until ranks reduce

    def resident(self, job: Job) -> dict[str, int]:
        if job.ranks == 1:
            return {}
        # gradient_as_bucket_view is on: they live in the buckets, all through a step
        return {"gradients": 4 * job.num_trainable}

    def reduction(self, job: Job) -> Reduction:
        if job.ranks == 1 or job.accumulates:
            return super().reduction(job)
        return Reduction(*({"buffers": 4 * numel} for numel in job.largest_gradients()))  # the newest, on its way in


DDP = Ddp()
