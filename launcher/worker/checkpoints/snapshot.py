"""What a store is given to save: one step of a training, without the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """A training at one step, as one rank sees it. What takes memory is made only when it is asked for."""

    step: int
    epoch: float | None
    is_resumable: bool
    """False where only the model is saved."""
    save_total_limit: int | None
    """Checkpoints to keep; None or 0: all."""
    best_steps: frozenset[int]
    """Steps whose checkpoints are kept beyond that limit."""
    gathered_weights: Callable[[], dict[str, Tensor] | None]
    """The model's state dict on the first rank, gathered where it is sharded; every rank must call it."""
    state_of_rank: Callable[[], tuple[list[tuple[str, Tensor]], dict[str, Any]]]
    """What this rank's state file holds: tensors by name, and a tree of plain values."""
    trainer_state: Callable[[], dict[str, Any]]
    """trainer_state.json's content."""
    write_model: Callable[[Path, Any], None]
    """Write gathered weights and the tokenizer into a folder, in Hugging Face format."""
