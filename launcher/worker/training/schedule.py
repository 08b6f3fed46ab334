"""What is put off in a training: a save or an evaluation that falls on a point where it must not happen yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainerState


@dataclass
class Schedule:
    """What is still due. Trainer and `Stop` share one."""

    save_is_due: bool = False
    """A save was put off to the epoch's end."""
    evaluation_is_due: bool = False
    """An evaluation of this step was put off: to the epoch's end, or, so that a checkpoint was in time, to the resumed run."""

    @staticmethod
    def epoch_is_over(state: TrainerState) -> bool:
        """Whether this step is the last of its epoch, or of all."""
        epoch = state.epoch or 0.0
        return epoch == int(epoch) or state.global_step >= state.max_steps
