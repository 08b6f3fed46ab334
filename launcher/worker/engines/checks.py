"""Whether the world and the engine that a rank got are the planned ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.worker.engines import table

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from launcher.worker.engines.device import Rank


def check_world(plan: Plan, rank: Rank, args: TrainingArguments) -> None:
    """Refuse a world that is not the planned one.

    torch, accelerate and DeepSpeed each find their own; on CPU hosts they disagree silently (each rank a world of one,
    DDP in place of DeepSpeed), and every rank would then train alone and call itself the first.

    Raises:
        LaunchError: names the two that disagree and their values.
    """
    import torch.distributed as dist
    from accelerate.state import PartialState

    joined = dist.is_available() and dist.is_initialized()
    sizes = {
        "the environment's WORLD_SIZE": rank.world_size,
        "torch.distributed's world size": dist.get_world_size() if joined else 1,
        "accelerate's num_processes": PartialState().num_processes,
        "TrainingArguments' world size": args.world_size,
    }
    sizes |= table.of(plan).world_sizes()
    for name, value in sizes.items():
        same(name, value, Message("the plan's number of ranks"), plan.world_size)
    same(Message("the rank's device"), args.device.type, Message("the plan's device"), plan.accelerator.torch_name)
    same(Message("accelerate's rank"), args.process_index, Message("the environment's RANK"), rank.index)
    if joined:
        backend = dist.get_backend()
        # A group may name one backend a device, as in cpu:gloo,npu:hccl.
        same(
            "torch.distributed's backend",
            plan.backend if plan.backend in backend else backend,
            Message("the plan's"),
            plan.backend,
        )


def check_engine(plan: Plan, trainer: Trainer) -> dict[str, Any]:
    """Refuse an engine that is not the planned one; call when the model is wrapped and no step was taken.

    Returns:
        What was found, for the run's events: engine, zero_stage, world_size, device, precision, parameters and
        local_parameters (held by this rank).

    Raises:
        LaunchError: names what disagrees.
    """
    return _check_accelerate(plan, trainer) | table.of(plan).check(plan, trainer)


def check_evaluation_engine(plan: Plan, trainer: Trainer) -> dict[str, Any]:
    """As `check_engine`, for a model that only evaluates: whole on every rank, or in shards."""
    return _check_accelerate(plan, trainer) | table.of(plan).check_evaluation(plan, trainer)


def _check_accelerate(plan: Plan, trainer: Trainer) -> dict[str, Any]:
    num_processes = trainer.accelerator.num_processes
    same("accelerate's num_processes", num_processes, Message("the plan's number of ranks"), plan.world_size)
    return {
        "engine": type(trainer.model_wrapped).__name__,
        "world_size": num_processes,
        "backend": plan.backend,
        "device": str(trainer.args.device),
        "precision": plan.precision,
    }


def same(what: str, actual: Any, expected_what: str, expected: Any) -> None:
    """Raises LaunchError where the two differ."""
    if actual != expected:
        raise LaunchError(
            "{what} is {actual}, but {expected_what} is {expected}",
            hint="every rank must see the same job: start it with ascend-launch, or with the rendered accelerate.yaml",
            exit_code=1,
            what=what,
            actual=actual,
            expected_what=expected_what,
            expected=expected,
        )
