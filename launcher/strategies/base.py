"""What most strategies have in common: one rank that holds everything, in fp32 under autocast, and shares nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from launcher import assets
from launcher.accelerators import table as accelerators
from launcher.messages import Message
from launcher.strategies.job import Job, merged
from launcher.strategies.table import INTERFACE, WHOLE, Planned, Reduction, Speed, States

OF_DDP = ("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph")
"""TrainingArguments that only torch's DDP looks at."""


class Base:
    """A strategy that leaves every decision as it is with one rank; others change what differs (see table.Strategy)."""

    interface = INTERFACE
    name: str
    engine = "launcher.worker.engines.base:Base"
    template = "ddp"
    """Of accelerate_configs: the file that its config for accelerate begins with."""
    speed = Speed()
    needs_deepspeed = False
    zero_stage: int | None = None
    shards_parameters = False
    offloads_optimizer = False
    computes_in_weights = False
    autocasts = True
    is_for_one_rank = False
    joins_cpu_ranks = False
    averages_on_gloo_since: tuple[int, int] | None = None
    evaluates_as = WHOLE

    def data_parallel_size(self, world_size: int) -> int:
        return world_size

    def data_parallel_rank(self, rank: int, world_size: int) -> int:
        return rank

    def problems(self, deepspeed_keys: Iterable[str], *, uses_dora: bool) -> Iterator[tuple[tuple[str, ...], str]]:
        for key in deepspeed_keys:
            yield (
                ("parallel", "deepspeed", key),
                Message("strategy {name} does not use DeepSpeed; leave it out", name=self.name),
            )

    def ignored_arguments(self) -> Mapping[str, str]:
        return dict.fromkeys(OF_DDP, Message("is DDP's, and the strategy is {name}", name=self.name))

    def default_arguments(self, device: str, precision: str) -> dict[str, Any]:
        if precision == "fp16" and not accelerators.load(device).scaler_takes_fused:
            return {"optim": "adamw_torch"}
        return {}

    def trainer_arguments(self) -> dict[str, Any]:
        return {}

    def accelerate_template(self) -> dict[str, Any]:
        config: dict[str, Any] = yaml.safe_load(
            (assets.folder("accelerate_configs") / f"{self.template}.yaml").read_text()
        )
        return config

    def accelerate_config(self, config: dict[str, Any], plan: Planned, deepspeed_path: Path) -> dict[str, Any]:
        return config

    def deepspeed_config(self, plan: Planned) -> dict[str, Any] | None:
        return None

    def weights(self, job: Job) -> int:
        """fp32, or, under LoRA, fp32 adapters beside low-precision weights."""
        return 4 * (job.num_trainable - job.head_copy) + job.low * (job.frozen + job.head_copy)

    def optimizer(self, job: Job) -> int:
        return 8 * (job.num_trainable - job.head_copy) + 2 * job.low * job.head_copy

    def gradients(self, job: Job) -> int:
        return 4 * job.num_trainable

    def carried_gradients(self, job: Job) -> int:
        return self.gradients(job)

    def resident(self, job: Job) -> dict[str, int]:
        return {}

    def gathered(self, job: Job) -> dict[str, int]:
        return {}

    def reduction(self, job: Job) -> Reduction:
        return Reduction({}, {}, {}, {})

    def step(self, job: Job) -> dict[str, int]:
        return merged(self.resident(job), {"gradients": self.gradients(job)})

    def offloaded(self, job: Job, states: States) -> tuple[States, int]:
        return states, 0

    def load_host_bytes(self, num_parameters: int, precision: str, *, has_adapter: bool) -> int:
        """A rank's own copy of the weights, as they are loaded."""
        is_low = precision != "fp32" and (self.computes_in_weights or has_adapter)
        return (2 if is_low else 4) * num_parameters

    def state_bytes(self, num_parameters: int, world_size: int, precision: str) -> int:
        """fp32 weights: 4 bytes, 4 of gradient, 8 of moments."""
        return 16 * num_parameters
