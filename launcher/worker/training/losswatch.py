"""A loss that is not a number, or exactly zero, ends the run: every step after it is wasted. So does a NaN weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.messages import Message

if TYPE_CHECKING:
    from launcher.worker.runtime.peers import Peers


ZERO_STEPS = 3
"""Logged steps in a row whose mean loss is exactly 0.0. One may happen; a healthy cross-entropy never stays there."""
LOOK_EVERY = 50
"""Steps between looks where nothing is logged."""
_LOOK_NUMBERS = 1 << 24
"""How many of a weight's numbers are searched for NaN at a time."""

NAN_REASONS = {
    "fp16": Message(
        "a value left fp16's range: lower the learning rate, or use parallel.precision=bf16 where the chip has it"
    ),
    "bf16": Message(
        "lower training.learning_rate, add training.warmup_steps, or set training.max_grad_norm=1.0; "
        "then look for empty or broken rows in the data"
    ),
    "fp32": Message(
        "lower training.learning_rate, or set training.max_grad_norm=1.0; then look for empty or "
        "broken rows in the data"
    ),
}


class LossWatch(TrainerCallback):
    """Looks at each step's own loss when a line is logged; Trainer's logged loss hides NaN (logging_nan_inf_filter)."""

    def __init__(self, loss_sum: Callable[[], torch.Tensor], precision: str, peers: Peers) -> None:
        """
        Args:
            loss_sum: gives a copy, on the device, of the sum of this rank's losses in this epoch.
            precision: the plan's, which tells what a loss that is not a number may come from.
        """
        self._loss_sum = loss_sum
        self._precision = precision
        self._peers = peers
        self._sums: list[tuple[int, torch.Tensor]] = []
        self._num_zero = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Nothing is waited for until a line is logged.
        self._sums.append((state.global_step, self._loss_sum()))
        if control.should_log or len(self._sums) >= LOOK_EVERY:
            self.look()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if "loss" not in logs:
            return
        self._num_zero = self._num_zero + 1 if logs["loss"] == 0.0 else 0
        if self._num_zero >= ZERO_STEPS:
            raise LaunchError(
                "the loss has been exactly 0 for {zero_steps} logged steps, the last of them step {global_step}",
                hint="nothing is learned any more: check that labels vary and that answers are not cut off by "
                "data.max_length; on a card, look for overflow (parallel.precision=bf16) and a faulty "
                "operator",
                exit_code=EXIT_JOB_FAILED,
                is_consequence=self._peers.index != 0,  # it is the loss of all of them
                zero_steps=ZERO_STEPS,
                global_step=state.global_step,
            )

    def look(self) -> None:
        """Every rank must call it.

        Raises:
            LaunchError: a loss since the last look is not a number.
        """
        if not self._sums:
            return
        values = torch.stack([s for _, s in self._sums]).tolist()
        steps = [step for step, _ in self._sums]
        self._sums.clear()
        # The sum of an epoch's losses stays NaN or infinite once a step's loss was.
        bad = next((step for step, value in zip(steps, values, strict=True) if not math.isfinite(value)), None)
        if any(self._peers.start_sum(int(bad is not None)).result()):
            bad_steps = [(step, rank) for rank, step in enumerate(self._peers.gather(bad)) if step is not None]
            step, rank = min(bad_steps)
            raise LaunchError(
                Message(
                    "the loss is not a number (NaN or infinite) at step {step}, first on rank {rank}",
                    step=step,
                    rank=rank,
                ),
                hint=NAN_REASONS[self._precision],
                exit_code=EXIT_JOB_FAILED,
                is_consequence=rank != self._peers.index,
            )


def not_a_number(weights: dict[str, torch.Tensor]) -> str | None:
    """The first weight that holds a NaN. By parts: a card may have no room for a mask of the largest weight. Not by its
    minimum, which is NaN too in torch, and need not be in every card's operator."""
    for name, weight in weights.items():
        parts = weight.detach().reshape(-1).split(_LOOK_NUMBERS) if weight.is_floating_point() else ()
        if any(torch.stack([torch.isnan(part).any() for part in parts]).tolist() if parts else ()):
            return name
    return None
