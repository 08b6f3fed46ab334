"""Where one rank runs, and whether the world it got is the planned one."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.worker import ops

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainingArguments

    from launcher.plan import Plan

MIXED_PRECISION = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}
"""Our precisions in accelerate's words."""


@dataclass(frozen=True)
class Rank:
    """This process in the job, as torchrun's environment contract tells it."""

    index: int
    local_index: int
    world_size: int
    local_world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what the job leaves behind."""
        return self.index == 0

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Rank:
        """Read RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE; one rank where none is set.

        Raises:
            LaunchError: a variable is not a number, or only some of them are set.
        """
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        missing = [n for n in names if n not in env]
        if len(missing) == len(names):
            return cls(0, 0, 1, 1)
        if missing:
            raise LaunchError(
                f"{', '.join(missing)} not set although {names[names.index(next(n for n in names if n in env))]} is",
                hint="start ranks with ascend-launch, torchrun or accelerate launch, or unset them all for one rank",
            )
        try:
            index, local_index, world_size = (int(env[n]) for n in names)
            return cls(index, local_index, world_size, int(env.get("LOCAL_WORLD_SIZE", world_size)))
        except ValueError as error:
            raise LaunchError(f"RANK, LOCAL_RANK and WORLD_SIZE must be numbers: {error}", hint="unset them") from None


def prepare_env(plan: Plan, env: MutableMapping[str, str]) -> None:
    """Settle the variables that decide, silently, which device and engine the libraries pick.

    Must run before TrainingArguments is built. Variables of `accelerate launch` that contradict the plan are removed:
    the plan was made from one recipe and is checked afterwards, whoever started the ranks.
    """
    env["DS_ACCELERATOR"] = plan.device
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    # With ACCELERATE_USE_CPU a `deepspeed=` job silently trains with DDP (accelerate state.py: `and not cpu`).
    # ACCELERATE_USE_DEEPSPEED comes back when TrainingArguments sees our own DeepSpeed file.
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION"):
        env.pop(name, None)
    for name in [n for n in env if n.startswith(("ACCELERATE_DEEPSPEED_", "ACCELERATE_CONFIG_DS_", "FSDP_"))]:
        env.pop(name)
    if "WORLD_SIZE" not in env:
        # A backend named in TrainingArguments wants a group even for one rank; DeepSpeed would else look for MPI.
        env.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    if env.get("WORLD_SIZE") == "1" and "MASTER_ADDR" not in env:
        env.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))


def place(plan: Plan, rank: Rank) -> torch.device:
    """The device of a rank that needs no process group: its card, or the CPU."""
    import torch

    if plan.device == "cpu":
        return torch.device("cpu")
    import torch_npu  # noqa: F401  # adds the device

    torch.npu.set_device(rank.local_index)
    return torch.device("npu", rank.local_index)


def init_process_group(plan: Plan, *, timeout_s: float) -> None:
    """Join the job's process group where DeepSpeed needs it before the model is loaded.

    `zero.Init` reads its world size before it would initialise the group itself, and then shards over a world of one
    (DeepSpeed issue 3228). For DDP and FSDP2 TrainingArguments joins the group.
    """
    if plan.zero_stage is None:
        return
    import deepspeed

    ops.build_nothing_unasked()
    deepspeed.init_distributed(dist_backend=plan.backend, timeout=timedelta(seconds=timeout_s), verbose=False)


def leave_process_group() -> None:
    """Destroy the process group, if there is one, so that no rank waits at exit for a peer that is gone."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def training_arguments(plan: Plan, *, output_dir: str, deepspeed_path: str | None) -> TrainingArguments:
    """The plan's TrainingArguments; building them joins the process group and picks the device.

    Raises:
        LaunchError: transformers refuses a value; the sentence is its own.
    """
    from transformers import TrainingArguments

    values: dict[str, Any] = {**plan.training_arguments, "output_dir": output_dir}
    # Trainer's default looks for unused parameters on every step; models with a head here have none.
    values.setdefault("ddp_find_unused_parameters", False)
    if deepspeed_path is not None:
        values["deepspeed"] = deepspeed_path
    try:
        return TrainingArguments(**values)
    except (TypeError, ValueError) as error:
        raise LaunchError(
            f"TrainingArguments: {error}", hint="change that key under training: in the recipe"
        ) from error


def allow_fsdp_on_cpu(plan: Plan) -> None:
    """Let accelerate take its FSDP2 path on CPU ranks.

    accelerate 1.15 looks at `fsdp=True` only where the world is of cards (state.py: MULTI_GPU, MULTI_NPU, …) and
    trains with DDP on MULTI_CPU without a word. Its FSDP2 code itself runs on gloo: parameters become DTensors on a
    CPU mesh. So the world is labelled as one of cards until AcceleratorState has read it; `check_engine` then looks
    at the parameters. Call after TrainingArguments, before Trainer.
    """
    if plan.strategy != "fsdp2" or plan.device != "cpu":
        return
    from accelerate.state import DistributedType, PartialState

    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_NPU


def shard_layers_that_exist(plugin: Any, model: Any) -> None:
    """Have FSDP2 shard by those layer classes of `_no_split_modules` that this model has.

    transformers names them for a whole family, and accelerate 1.15 refuses a class that is not there: the vision blocks
    of a text-only Qwen3.5, the encoder layers of BartForCausalLM. Call after Trainer has made its accelerator.

    Args:
        plugin: accelerate's FullyShardedDataParallelPlugin; None without FSDP.
        model: what is trained, not yet wrapped.
    """
    if plugin is None:
        return
    there = {type(module).__name__ for module in model.modules()}
    plugin.transformer_cls_names_to_wrap = sorted(set(getattr(model, "_no_split_modules", None) or ()) & there)


def drop_needless_ddp(plan: Plan) -> None:
    """Keep accelerate from wrapping the model of a single rank in DDP, which would copy every gradient for nobody.

    A process group of one exists all the same (a backend in TrainingArguments wants it), and that is what it looks at.
    Call after TrainingArguments, before Trainer.
    """
    if plan.strategy == "ddp" and plan.world_size == 1:
        from accelerate.state import DistributedType, PartialState

        PartialState._shared_state["distributed_type"] = DistributedType.NO


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
    found = {
        "the environment's WORLD_SIZE": rank.world_size,
        "torch.distributed's world size": dist.get_world_size() if joined else 1,
        "accelerate's num_processes": PartialState().num_processes,
        "TrainingArguments' world size": args.world_size,
    }
    if plan.zero_stage is not None:
        from deepspeed import comm

        found["DeepSpeed's world size"] = comm.get_world_size()
    for name, value in found.items():
        _same(name, value, "the plan's number of ranks", plan.world_size)
    _same("the rank's device", args.device.type, "the plan's device", plan.device)
    _same("accelerate's rank", args.process_index, "the environment's RANK", rank.index)
    if joined:
        backend = dist.get_backend()
        # A group may name one backend a device, as in cpu:gloo,npu:hccl.
        _same(
            "torch.distributed's backend",
            plan.backend if plan.backend in backend else backend,
            "the plan's",
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
    found = _check_accelerate(plan, trainer)
    if plan.zero_stage is not None:
        found |= _check_deepspeed(plan, trainer.model_wrapped)
    elif plan.strategy == "fsdp2":
        found |= _check_fsdp2(plan, trainer)
    else:
        found |= _check_ddp(plan, trainer)
    return found


def check_evaluation_engine(plan: Plan, trainer: Trainer) -> dict[str, Any]:
    """As `check_engine`, for a model that only evaluates: whole on every rank, or in ZeRO-3's shards."""
    found, model = _check_accelerate(plan, trainer), trainer.model_wrapped
    if plan.zero_stage is not None:
        return found | _check_deepspeed(plan, model)
    total = sum(p.numel() for p in model.parameters())
    return found | {"parameters": total, "local_parameters": total}


def _check_accelerate(plan: Plan, trainer: Trainer) -> dict[str, Any]:
    num_processes = trainer.accelerator.num_processes
    _same("accelerate's num_processes", num_processes, "the plan's number of ranks", plan.world_size)
    return {
        "engine": type(trainer.model_wrapped).__name__,
        "world_size": num_processes,
        "backend": plan.backend,
        "device": str(trainer.args.device),
        "precision": plan.precision,
    }


def _check_deepspeed(plan: Plan, model: Any) -> dict[str, Any]:
    from deepspeed import DeepSpeedEngine

    if not isinstance(model, DeepSpeedEngine):
        raise _wrong_engine(plan, model)
    stage = plan.zero_stage
    assert stage is not None
    _same("DeepSpeed's ZeRO stage", model.zero_optimization_stage(), f"{plan.strategy}'s", stage)
    precision = "bf16" if model.bfloat16_enabled() else "fp16" if model.fp16_enabled() else "fp32"
    _same("DeepSpeed's precision", precision, "the plan's", plan.precision)
    total = sum(getattr(p, "ds_numel", p.numel()) for p in model.module.parameters())
    if stage < 3:
        partitions = {int(count) for count in model.optimizer.partition_count}
        _same("the number of DeepSpeed's optimizer partitions", partitions, "the plan's", {plan.world_size})
        return {"zero_stage": stage, "parameters": total, "local_parameters": total}
    whole = [n for n, p in model.module.named_parameters() if not hasattr(p, "ds_tensor")]
    if whole:
        raise LaunchError(f"{len(whole)} parameters are whole on every rank under ZeRO-3, the first is {whole[0]}",
                          hint="report this with the run directory", exit_code=1)  # fmt: skip
    local = sum(p.ds_tensor.numel() for p in model.module.parameters())
    return {"zero_stage": stage, "parameters": total, "local_parameters": local}


def _check_fsdp2(plan: Plan, trainer: Any) -> dict[str, Any]:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    model = trainer.model_wrapped
    if not isinstance(model, FSDPModule):
        raise _wrong_engine(plan, model)
    _same("accelerate's precision", trainer.accelerator.mixed_precision, "the plan's", MIXED_PRECISION[plan.precision])
    parameters = dict(model.named_parameters())
    whole = [n for n, p in parameters.items() if not isinstance(p, DTensor)]
    if whole:
        raise LaunchError(f"{len(whole)} parameters are no DTensors under FSDP2, the first is {whole[0]}",
                          hint="report this with the run directory", exit_code=1)  # fmt: skip
    total = sum(p.numel() for p in parameters.values())
    local = sum(p.to_local().numel() for p in parameters.values())
    # Rows are dealt out whole, so a rank can hold more than its share of a small parameter, or nothing of it.
    if local >= total and plan.world_size > 1:
        raise LaunchError(f"this rank holds all {total} parameters under FSDP2", hint="report this with the run directory",
                          exit_code=1)  # fmt: skip
    return {"parameters": total, "local_parameters": local}


def _check_ddp(plan: Plan, trainer: Any) -> dict[str, Any]:
    from torch.nn.parallel import DistributedDataParallel

    model = trainer.model_wrapped
    if plan.world_size > 1 and not isinstance(model, DistributedDataParallel):
        raise _wrong_engine(plan, model)
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise _wrong_engine(plan, model)
    _same("accelerate's precision", trainer.accelerator.mixed_precision, "the plan's", MIXED_PRECISION[plan.precision])
    total = sum(p.numel() for p in model.parameters())
    return {"parameters": total, "local_parameters": total}


def _wrong_engine(plan: Plan, model: Any) -> LaunchError:
    return LaunchError(
        f"the plan is {plan.strategy} on {plan.world_size} ranks, but the model came back as {type(model).__name__}",
        hint="unset ACCELERATE_* and DEEPSPEED variables of other jobs; if it stays so, report it with the run directory",
        exit_code=1,
    )


def _same(what: str, found: Any, expected_what: str, expected: Any) -> None:
    if found != expected:
        raise LaunchError(
            f"{what} is {found}, but {expected_what} is {expected}",
            hint="every rank must see the same job: start it with ascend-launch, or with the rendered accelerate.yaml",
            exit_code=1,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def set_threads() -> None:
    """Give this rank the number of CPU threads that OMP_NUM_THREADS says.

    A forked rank inherits the count that its parent settled when it imported torch.
    """
    import torch

    count = os.environ.get("OMP_NUM_THREADS", "")
    if count.isdigit() and int(count) > 0:
        torch.set_num_threads(int(count))
