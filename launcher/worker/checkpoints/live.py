"""What a training is made of at one step, as named pieces: the same for every strategy and any number of ranks.

A piece is a run of elements of one flattened parameter, with the optimizer's numbers for the same elements. DDP holds
every parameter whole, FSDP2 a run of rows, DeepSpeed slices of flat buffers; saved as pieces they fit each other, so a
checkpoint is read by another number of ranks, and by another strategy, without converting files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.worker.checkpoints.saved import BUFFER, PIECE, WEIGHT, Saved
from launcher.worker.engines import table
from launcher.worker.engines.pieces import Held, cut, flat


class Live:
    """The state of a training that is wrapped and ready: what is saved, and where what is loaded goes."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._parts = table.of(trainer.plan).parts(trainer)
        self._optimizer = self._parts.optimizer
        self.held = tuple(self._parts.held())
        self.is_replicated = self._parts.is_replicated
        """Whether every rank holds the same pieces, so that one of them is enough."""

    # -- to a checkpoint -------------------------------------------------------------------------------------------

    def tensors(self, *, is_first: bool) -> list[tuple[str, Tensor]]:
        """This rank's pieces by their names in the file; the first rank adds the buffers of the model."""
        out: list[tuple[str, Tensor]] = []
        if is_first or not self.is_replicated:
            for held in self.held:
                sized, _ = self._optimizer_values(held)
                for key, values in {WEIGHT: held.values, **sized}.items():
                    out += [(f"{PIECE}/{key}/{p.name}/{p.start}", cut(values, p)) for p in held.pieces]
        if is_first:
            out += [(f"{BUFFER}/{name}", buffer) for name, buffer in _persistent_buffers(self._parts.model)]
        return out

    def optimizer_values(self) -> dict[str, dict[str, Any]]:
        """Parameter → what the optimizer keeps for it that is not one number an element, such as the step."""
        return {p.name: self._optimizer_values(held)[1] for held in self.held for p in held.pieces}

    def job_values(self) -> dict[str, Any]:
        """What all ranks share: hyperparameters of the groups as the scheduler left them, scheduler, scaler, engine."""
        trainer = self._trainer
        scaler = getattr(trainer.accelerator, "scaler", None)
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self._optimizer.param_groups]
        return {
            "groups": groups,
            "scheduler": trainer.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "engine": self._parts.values(),
        }

    # -- from a checkpoint -----------------------------------------------------------------------------------------

    def load(self, saved: Saved, job: Mapping[str, Any]) -> list[str]:
        """Make this rank's state the saved one. Every rank must call it.

        Returns:
            What could not be taken over, a sentence each.

        Raises:
            LaunchError: the model is not the one that was saved.
        """
        lost = self._load_optimizer(saved)
        self.load_weights(saved)
        lost += self._load_groups(job["groups"])
        self._trainer.lr_scheduler.load_state_dict(job["scheduler"])
        scaler = getattr(self._trainer.accelerator, "scaler", None)
        if scaler is not None and job["scaler"] is not None:
            scaler.load_state_dict(job["scaler"])
        has_own = self._parts.values() is not None
        if has_own and job["engine"] is not None:
            self._parts.set_values(job["engine"])
        elif self._trainer.plan.precision == "fp16" and (scaler is None) != (job["scaler"] is None):
            lost.append("the loss scale starts anew: DeepSpeed's and accelerate's are not the same")
        return lost

    def load_weights(self, saved: Saved) -> None:
        """Take over the weights and the model's buffers alone. Every rank must call it."""
        self._parts.before_weights()
        for held in self.held:
            for piece in held.pieces:
                if not saved.read(WEIGHT, piece.name, piece.start, cut(held.values, piece)):
                    raise LaunchError(
                        "{where}: holds no weights of {piece}",
                        hint="it is a checkpoint of another model: name a new --run-dir",
                        where=saved.where,
                        piece=piece.name,
                    )
        buffers = dict(_persistent_buffers(self._parts.model))
        for name, value in saved.buffers():
            if name in buffers:
                buffers[name].copy_(value)
        self._parts.after_weights()

    def _load_optimizer(self, saved: Saved) -> list[str]:
        lost: set[str] = set()
        keys = saved.optimizer_keys()
        for held in self.held:
            state: dict[str, Any] = {}
            for key in keys:
                values = torch.zeros_like(held.key, dtype=saved.dtype(key))
                are_read = [saved.read(key, p.name, p.start, cut(flat(values), p)) for p in held.pieces]
                if any(are_read):
                    state[key] = values
            for piece in held.pieces:
                others = saved.optimizer_values.get(piece.name, {})
                for key, value in others.items():
                    if isinstance(value, Tensor) and value.dim() and len(held.pieces) != 1:
                        lost.add(key)  # shaped after the parameter, as adafactor's rows and columns: fits it whole only
                    elif key not in state:
                        state[key] = self._placed(key, value, held.key)
            if state or held.pieces:
                self._optimizer.state[held.key] = state
        if not lost:
            return []
        self._optimizer.state.clear()
        return [
            Message(
                "the optimizer starts anew: its {lost} cannot be cut for {strategy}",
                lost=", ".join(sorted(lost)),
                strategy=self._trainer.plan.strategy,
            )
        ]

    def _placed(self, key: str, value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        # torch keeps a step on the parameter's device only for these kernels (optim/optimizer.py,
        # _process_value_according_to_param_policy).
        group = next(
            (g for g in self._optimizer.param_groups if any(p is parameter for p in g["params"])),
            self._optimizer.param_groups[0],
        )
        on_device = key != "step" or group.get("fused") or group.get("capturable")
        return value.to(parameter.device) if on_device else value.clone()

    def _load_groups(self, groups: list[dict[str, Any]]) -> list[str]:
        own = self._optimizer.param_groups
        if len(own) != len(groups):
            return [
                Message(
                    "learning rate and weight decay are the recipe's: {num_groups} parameter groups became {num_own}",
                    num_groups=len(groups),
                    num_own=len(own),
                )
            ]
        for group, values in zip(own, groups, strict=True):
            group.update({k: v for k, v in values.items() if k != "params"})
        return []

    # -- what this rank holds --------------------------------------------------------------------------------------

    def _optimizer_values(self, held: Held) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the optimizer keeps for it: one number an element, in one dimension; and the rest."""
        sized, others = {}, {}
        for key, value in self._optimizer.state.get(held.key, {}).items():
            if isinstance(value, Tensor) and value.shape == held.key.shape and key != "step":
                sized[key] = flat(value)
            else:
                others[key] = value
        return sized, others


def _persistent_buffers(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer
