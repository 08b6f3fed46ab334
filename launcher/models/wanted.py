"""What a job wants of a model, and what is known of the model's files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """What is known of a model that may be trained."""

    num_parameters: int | None = None
    is_counted: bool = True
    """Whether the number was read from weight files; otherwise it is estimated from the config's sizes."""
    notes: tuple[str, ...] = ()
    """What the user should know before a launch."""


@dataclass(frozen=True)
class Wanted:
    """What a recipe asks of the model, in its own keys."""

    name: str
    task: str
    """As `model.task` says it, for messages."""
    num_labels: int | None
    label_names: tuple[str, ...]
    max_length: int
    mapping: str
    """transformers' table of the model types that have the task's class."""
    has_head: bool
    """Whether a classification head is trained."""
    gguf_file: str | None = None
    pads_to: int = 1
    """Batches are padded to a multiple of this."""
