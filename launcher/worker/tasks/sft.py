"""Conversations and texts, as a causal language model writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from launcher.worker.chat import encode
from launcher.worker.tasks.base import IGNORED, Evaluated, pad
from launcher.worker.tasks.encoding import Encoder

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared


class Sft:
    """A causal LM whose loss is the mean over the trained tokens of a step."""

    def __init__(self, pad_id: int, multiple: int) -> None:
        self._pad_id, self._multiple = pad_id, multiple

    @classmethod
    def auto_class(cls) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    @classmethod
    def encoder(cls, recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
        """Ids of whole conversations, and which are trained.

        Raises:
            LaunchError: the tokenizer has no chat template, or it refuses a row.
        """
        return encode.encoder(recipe, tokenizer)

    @classmethod
    def for_model(cls, plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> Sft:
        return cls(tokenizer.pad_token_id, plan.accelerator.pads_to)

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids, mask = pad([row["input_ids"] for row in rows], self._pad_id, self._multiple, left=False)
        # Not by the pad token, which may be the one that ends a turn.
        trained, _ = pad([row["trained"] for row in rows], 0, self._multiple, left=False)
        return {"input_ids": ids, "attention_mask": mask, "targets": torch.where(trained.bool(), ids, IGNORED)}

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self._losses(self._logits(model, batch), batch)

    def count(self, batch: dict[str, Tensor]) -> int | None:
        return int((batch["targets"][:, 1:] != IGNORED).sum())

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Evaluated:
        logits, targets = self._logits(model, batch), batch["targets"][:, 1:]
        counts = targets != IGNORED
        correct = ((logits.argmax(-1) == targets) & counts).sum(-1, keepdim=True)
        return Evaluated(correct, self._losses(logits, batch).sum(-1), counts.sum(-1))

    def answers(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> list[Any]:
        raise NotImplementedError  # the other half says that there is no predict

    @staticmethod
    def _logits(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits[:, :-1].float()

    @staticmethod
    def _losses(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        targets = batch["targets"][:, 1:]
        losses = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view_as(targets)
