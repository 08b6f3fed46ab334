"""Where one rank runs: its place in the job, its environment, device and process group."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.worker.accelerators import table

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from launcher.planning.plan import Plan


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
                "{missing} not set although {names} is",
                hint="start ranks with ascend-launch, torchrun or accelerate launch, or unset them all for one rank",
                missing=", ".join(missing),
                names=names[names.index(next(n for n in names if n in env))],
            )
        try:
            index, local_index, world_size = (int(env[n]) for n in names)
            return cls(index, local_index, world_size, int(env.get("LOCAL_WORLD_SIZE", world_size)))
        except ValueError as error:
            raise LaunchError(
                "RANK, LOCAL_RANK and WORLD_SIZE must be numbers: {error}", hint="unset them", error=error
            ) from None


def prepare_env(plan: Plan, env: MutableMapping[str, str]) -> None:
    """Settle the variables that decide, silently, which device and engine the libraries pick.

    Must run before TrainingArguments is built. Variables of `accelerate launch` that contradict the plan are removed:
    the plan was made from one recipe and is checked afterwards, whoever started the ranks.
    """
    env["DS_ACCELERATOR"] = plan.accelerator.torch_name
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
    return table.of(plan).place(plan.accelerator.torch_name, rank.local_index)


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
            "TrainingArguments: {error}", hint="change that key under training: in the recipe", error=error
        ) from error


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
