"""What an export is asked for, and what all its parts go by."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from launcher.recipe import schema
from launcher.recipe.schema import RecipeSpec
from launcher.worker.models import tokenizer

if TYPE_CHECKING:
    from launcher.worker.weights.trained import Trained


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Request:
    """What the command line asks for, as JSON."""

    weights: str
    """A folder's absolute path."""
    out: str
    checkpoint: int | None
    """The step of a checkpoint in a run directory; None for the final model, or the newest whole checkpoint."""
    dtype: str | None
    """bf16, fp16 or fp32; None for what the weights are saved in."""
    max_shard_bytes: int
    adapter_only: bool
    recipe: dict[str, Any]
    strategy: str | None
    precision: str | None


@dataclass
class Job:
    """One export: the request, the trained weights that it names, and the folder that is being written."""

    request: Request
    recipe: RecipeSpec
    trained: Trained
    aside: Path
    notes: list[str]

    @functools.cached_property
    def tokenizer(self) -> Any:
        return tokenizer.load_tokenizer(self.recipe, self.trained.tokenizer)

    def label_names(self) -> tuple[str, ...]:
        return self.recipe.model.label_names or tuple(map(str, range(schema.num_labels(self.recipe))))
