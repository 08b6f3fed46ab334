"""Plan → the one DeepSpeed config of a job."""

from __future__ import annotations

from typing import Any

from launcher.memory import ZERO3_MAX_LIVE_ELEMENTS, ZERO_BUCKET_ELEMENTS
from launcher.plan import Plan

LLAMA_8B_HIDDEN = 4096


def config(plan: Plan) -> dict[str, Any] | None:
    """deepspeed.json's content, or None where the strategy needs no DeepSpeed."""
    if plan.zero_stage is None:
        return None
    offload = plan.strategy == "zero3-offload"
    out = document(plan.zero_stage, plan.device, plan.hidden_size or LLAMA_8B_HIDDEN, offload=offload)
    asked = plan.recipe.parallel.deepspeed
    there = out["zero_optimization"]
    there |= {key: value for key, value in asked.given().items() if key in there} if asked else {}
    there["overlap_comm"] = plan.overlap_comm
    return out


def document(stage: int, device: str, hidden: int, *, offload: bool = False) -> dict[str, Any]:
    """The config of a ZeRO stage (1, 2 or 3) on `device`, for a model whose hidden size is `hidden`.

    Batch sizes, clipping and precision stay `"auto"`, to be filled from TrainingArguments: said twice they can
    disagree, and transformers refuses that. `train_batch_size` is absent, since ZeRO-3 checks it before the world is
    known and fails (DeepSpeed issue 3228). `overlap_comm` is the plan's, by DeepSpeed's version. Bucket sizes are integers: DeepSpeed refuses the floats that formulas give.
    """
    zero: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "overlap_comm": False,
        "reduce_scatter": True,
        "reduce_bucket_size": ZERO_BUCKET_ELEMENTS[device],
        "allgather_partitions": True,
        "allgather_bucket_size": ZERO_BUCKET_ELEMENTS[device],
    }
    if stage == 3:
        # The formulas that transformers uses for "auto" (integrations/deepspeed.py, trainer_config_finalize).
        zero |= {
            "reduce_bucket_size": hidden * hidden,
            "stage3_prefetch_bucket_size": hidden * hidden * 9 // 10,
            "stage3_param_persistence_threshold": 10 * hidden,
            "stage3_max_live_parameters": ZERO3_MAX_LIVE_ELEMENTS,
            "stage3_max_reuse_distance": ZERO3_MAX_LIVE_ELEMENTS,
            "sub_group_size": 1_000_000_000,
            # Without it a checkpoint holds shards only and no weights that from_pretrained can read.
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device == "npu"}
        zero["offload_param"] = {"device": "cpu", "pin_memory": device == "npu"}
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
