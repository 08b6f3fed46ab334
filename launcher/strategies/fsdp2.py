"""FSDP2: weights, gradients and optimizer state are sharded by rows, without DeepSpeed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.models.geometry import Parameter, largest_block
from launcher.strategies.base import Base
from launcher.strategies.job import Job
from launcher.strategies.table import Planned, Reduction, Speed


class Fsdp2(Base):
    """torch's fully_shard. With one rank it keeps what Base does."""

    name = "fsdp2"
    engine = "launcher.worker.engines.fsdp2:Fsdp2"
    template = "fsdp2"
    speed = Speed(1.5)
    shards_parameters = True
    autocasts = False
    # Before, gloo's AVG in a reduce-scatter is a sum: 1.0 and 2.0 came to 3.0 on 2.7.1 and 2.8.0, to 1.5 on 2.9.0.
    averages_on_gloo_since = (2, 9)

    def trainer_arguments(self) -> dict[str, Any]:
        return {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "reshard_after_forward": True,
                "state_dict_type": "FULL_STATE_DICT",
            },
        }

    def accelerate_config(self, config: dict[str, Any], plan: Planned, deepspeed_path: Path) -> dict[str, Any]:
        settings = config["fsdp_config"] | {"fsdp_activation_checkpointing": plan.recomputes_activations}
        return config | {"fsdp_config": settings}

    def weights(self, job: Job) -> int:
        if job.ranks == 1:
            return super().weights(job)
        frozen = _shard(job.g.parameters, job.ranks) if job.lora else 0
        return 4 * _shard(job.trainable, job.ranks) + job.low * frozen

    def optimizer(self, job: Job) -> int:
        return super().optimizer(job) if job.ranks == 1 else 8 * _shard(job.trainable, job.ranks)

    def gradients(self, job: Job) -> int:
        return 4 * _shard(job.trainable, job.ranks)

    def gathered(self, job: Job) -> dict[str, int]:
        """What is in no block, from its first use in the forward pass to the end of the backward pass."""
        return super().gathered(job) if job.ranks == 1 else {"gathered": job.low * job.g.outer_parameters}

    def reduction(self, job: Job) -> Reduction:
        if job.ranks == 1:
            return super().reduction(job)
        block = job.low * job.g.layer_parameters
        reducing = job.low * largest_block(job.trainable)
        # Between two blocks: gradients, their copy for the reduce-scatter (gloo clones it), and the next block's weights.
        copies = reducing * (2 if job.on_card else 3)
        gathered = {"gathered": block}
        reduced = gathered | {"buffers": reducing}
        return Reduction({}, gathered, reduced, reduced, gathered | {"buffers": copies})

    def state_bytes(self, num_parameters: int, world_size: int, precision: str) -> int:
        return 16 * num_parameters // world_size


def _shard(parameters: Iterable[Parameter], ranks: int) -> int:
    """Elements of the first rank's shard: FSDP2 cuts along the first dimension, and the first ranks get the larger pieces."""
    return sum(-(-p.shape[0] // ranks) * math.prod(p.shape[1:]) for p in parameters)


FSDP2 = Fsdp2()
