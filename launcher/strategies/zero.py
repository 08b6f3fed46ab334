"""DeepSpeed's ZeRO: stage 1 shards the optimizer's state, 2 gradients too, 3 weights too; offload moves all to main memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from launcher.accelerators import table as accelerators
from launcher.messages import Message
from launcher.strategies.base import Base
from launcher.strategies.job import Job, merged
from launcher.strategies.table import Planned, Reduction, Speed, States
from launcher.text import GIB

MAX_LIVE_ELEMENTS = 1_000_000_000
"""stage3_max_live_parameters and stage3_max_reuse_distance: gathered parameters nearer than this to their next use stay."""
SUB_GROUP_ELEMENTS = 1_000_000_000
LLAMA_8B_HIDDEN = 4096


class Zero(Base):
    """Stages 1 and 2: weights are whole on every rank."""

    engine = "launcher.worker.engines.zero:Zero"
    needs_deepspeed = True
    computes_in_weights = True
    autocasts = False

    def __init__(self, name: str, stage: int, speed: Speed) -> None:
        self.name = name
        self.zero_stage = self._stage = stage
        self.template = f"zero{stage}"
        self.speed = speed

    def problems(self, deepspeed_keys: Iterable[str], *, uses_dora: bool) -> Iterator[tuple[tuple[str, ...], str]]:
        for key in deepspeed_keys:
            if key.startswith("stage3_"):
                yield (
                    ("parallel", "deepspeed", key),
                    Message("is for zero3, and the strategy is {name}", name=self.name),
                )

    def default_arguments(self, device: str, precision: str) -> dict[str, Any]:
        return {}  # DeepSpeed scales losses itself

    def accelerate_config(self, config: dict[str, Any], plan: Planned, deepspeed_path: Path) -> dict[str, Any]:
        settings = {"deepspeed_config_file": str(deepspeed_path), "zero3_init_flag": self.shards_parameters}
        if plan.num_nodes > 1:
            # The other launchers log in to every node and write the environment, tokens too, to a file.
            settings["deepspeed_multinode_launcher"] = "standard"
        # The file says the precision; accelerate 1.15 raises where both do.
        without = {key: value for key, value in config.items() if key != "mixed_precision"}
        return without | {"deepspeed_config": settings}

    def deepspeed_config(self, plan: Planned) -> dict[str, Any] | None:
        out = document(self._stage, plan.device, plan.hidden_size or LLAMA_8B_HIDDEN, offload=self.offloads_optimizer)
        zero = out["zero_optimization"]
        zero |= {key: value for key, value in plan.deepspeed_keys.items() if key in zero}
        zero["overlap_comm"] = plan.overlap_comm
        return out

    def weights(self, job: Job) -> int:
        return job.low * (_padded_flat(job) + job.frozen)

    def optimizer(self, job: Job) -> int:
        return 12 * _padded_flat(job) // job.ranks

    def gradients(self, job: Job) -> int:
        return job.low * (job.num_trainable if self._stage == 1 else _padded_flat(job) // job.ranks)

    def reduction(self, job: Job) -> Reduction:
        size = job.bucket or accelerators.load(job.device).bucket_elements
        bucket = job.low * size * (2 if job.overlaps else 1)
        copy = 0
        if self._stage == 2:
            copy = job.low * min(size, job.num_trainable)  # flattened for the reduction
            # The last bucket's gradients may still be in the copy when the partition is filled, or not: the backend's
            # own thread lets go of it. Both were measured; this is the middle.
            copy -= int(self.gradients(job) * min(1.0, size / max(1, job.num_trainable)) / 2)
        before = {"buffers": bucket}
        return Reduction(before, before, before, {"buffers": bucket + copy})

    def step(self, job: Job) -> dict[str, int]:
        shard = _padded_flat(job) // job.ranks
        return {"gradients": self.gradients(job), "buffers": (job.low + 4) * shard}

    def state_bytes(self, num_parameters: int, world_size: int, precision: str) -> int:
        """2 bytes of weight, 2 of gradient and 12 of optimizer (4, 4 and 8 in fp32), each divided from its stage on."""
        low, optimizer = (4, 8) if precision == "fp32" else (2, 12)
        parts = ((3, low), (2, low), (1, optimizer))
        return sum(num_parameters * size // (world_size if self._stage >= stage else 1) for stage, size in parts)


class Zero3(Zero):
    """Stage 3: a rank holds its share of the weights, and whole layers only while they compute."""

    shards_parameters = True

    def __init__(self, name: str, speed: Speed, *, offload: bool = False) -> None:
        super().__init__(name, 3, speed)
        self.offloads_optimizer = self.is_for_one_rank = offload
        self.template = "zero3-offload" if offload else "zero3"
        self.evaluates_as = "zero3"

    def problems(self, deepspeed_keys: Iterable[str], *, uses_dora: bool) -> Iterator[tuple[tuple[str, ...], str]]:
        if uses_dora:
            yield ("adapter", "use_dora"), "DoRA reads whole weights, which ZeRO-3 does not keep; use zero2"
        if "allgather_bucket_size" in deepspeed_keys:
            why = "is for zero1 and zero2; zero3 has stage3_prefetch_bucket_size"
            yield ("parallel", "deepspeed", "allgather_bucket_size"), why

    def weights(self, job: Job) -> int:
        frozen = sum(-(-p.numel // job.ranks) for p in job.g.parameters) if job.lora else 0
        return job.low * (_shard(job) + frozen)

    def optimizer(self, job: Job) -> int:
        return 12 * _shard(job)

    def gradients(self, job: Job) -> int:
        return 0  # in the flat buffer, which is resident

    def resident(self, job: Job) -> dict[str, int]:
        hidden = job.g.hidden
        own = (*job.g.parameters, *(job.trainable if job.lora else ()))
        persistent = sum(p.numel for p in own if p.numel <= 10 * hidden)
        return {
            "gradients": _shard(job) * job.low,
            "buffers": job.low * hidden * hidden,
            "gathered": job.low * persistent,
        }

    def gathered(self, job: Job) -> dict[str, int]:
        total = job.g.num_parameters + (job.num_trainable if job.lora else 0)
        persistent = sum(p.numel for p in job.g.parameters if p.numel <= 10 * job.g.hidden)
        return {"gathered": job.low * min(total - persistent, MAX_LIVE_ELEMENTS)}

    def reduction(self, job: Job) -> Reduction:
        # A gradient too large for the bucket is there whole, and once more flattened for the reduce-scatter.
        return Reduction(*({"buffers": 2 * job.low * numel} for numel in job.largest_gradients()))

    def step(self, job: Job) -> dict[str, int]:
        sub_group = min(_shard(job), SUB_GROUP_ELEMENTS)
        return merged(self.resident(job), {"buffers": (job.low + 4) * sub_group})

    def offloaded(self, job: Job, states: States) -> tuple[States, int]:
        if not self.offloads_optimizer:
            return states, 0
        shard = _shard(job)
        if not job.on_card:  # the optimizer's own fp32 gradients, kept for its step on the CPU
            return States(states.weights, states.gradients + 4 * shard, states.optimizer), 0
        return States(0, 0, 0), states.weights + states.optimizer + shard * job.low + 4 * shard

    def load_host_bytes(self, num_parameters: int, precision: str, *, has_adapter: bool) -> int:
        """Only the largest shard file's tensors pass through; transformers writes shards of 5 GB."""
        whole = super().load_host_bytes(num_parameters, precision, has_adapter=has_adapter)
        return min(5 * GIB, whole)


def document(stage: int, device: str, hidden: int, *, offload: bool = False) -> dict[str, Any]:
    """The config of a ZeRO stage (1, 2 or 3) on `device`, for a model whose hidden size is `hidden`.

    Batch sizes, clipping and precision stay `"auto"`, to be filled from TrainingArguments: said twice they can
    disagree, and transformers refuses that. `train_batch_size` is absent, since ZeRO-3 checks it before the world is
    known and fails (DeepSpeed issue 3228). `overlap_comm` is the plan's, by DeepSpeed's version. Bucket sizes are
    integers: DeepSpeed refuses the floats that formulas give.
    """
    accelerator = accelerators.load(device)
    zero: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "overlap_comm": False,
        "reduce_scatter": True,
        "reduce_bucket_size": accelerator.bucket_elements,
        "allgather_partitions": True,
        "allgather_bucket_size": accelerator.bucket_elements,
    }
    if stage == 3:
        # The formulas that transformers uses for "auto" (integrations/deepspeed.py, trainer_config_finalize).
        zero |= {
            "reduce_bucket_size": hidden * hidden,
            "stage3_prefetch_bucket_size": hidden * hidden * 9 // 10,
            "stage3_param_persistence_threshold": 10 * hidden,
            "stage3_max_live_parameters": MAX_LIVE_ELEMENTS,
            "stage3_max_reuse_distance": MAX_LIVE_ELEMENTS,
            "sub_group_size": SUB_GROUP_ELEMENTS,
            # Without it a checkpoint holds shards only and no weights that from_pretrained can read.
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": accelerator.has_cards}
        zero["offload_param"] = {"device": "cpu", "pin_memory": accelerator.has_cards}
    out: dict[str, Any] = {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {
            "enabled": "auto",
            "loss_scale": 0,
            "initial_scale_power": 16,
            "loss_scale_window": 1000,
            "min_loss_scale": 1,
        },
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        # The Trainer brings torch's AdamW, which DeepSpeed counts among the optimizers it has not tested.
        "zero_allow_untested_optimizer": True,
        "wall_clock_breakdown": False,
    }
    if offload:
        out["zero_force_ds_cpu_optimizer"] = False
    return out


def _padded_flat(job: Job) -> int:
    """Elements of stage 1 and 2's flat buffers: each group is filled up to a multiple of 2 x ranks (nccl_start_alignment)."""
    return sum(-(-n // (2 * job.ranks)) * 2 * job.ranks for n in job.groups)


def _shard(job: Job) -> int:
    """Elements of this rank's shard: every trainable parameter is cut by itself, the last piece filled up."""
    return sum(-(-p.numel // job.ranks) for p in job.trainable)


ZERO1 = Zero("zero1", 1, Speed(1.0))
ZERO2 = Zero("zero2", 2, Speed(1.0, 2 / 3.5))
ZERO3 = Zero3("zero3", Speed(1.5, 2 / 8.5))
ZERO3_OFFLOAD = Zero3("zero3-offload", Speed(1.5), offload=True)
