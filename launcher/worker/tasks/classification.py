"""A label for a text, from a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from launcher.worker.losses import table as losses
from launcher.worker.tasks import prompts
from launcher.worker.tasks.base import (
    Encoder,
    Evaluated,
    Labelling,
    base_model,
    evaluated,
    pad,
)

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared
    from launcher.worker.losses.base import Loss


def hides_padding(model: Any) -> bool:
    """Whether padding on the right changes nothing without a mask.

    In a decoder no token sees a later one, and transformers' head for decoders finds the last token by the pad id. The
    fused attention is then set to be causal, instead of reading a mask of (rows, 1, length, length).
    """
    from transformers.modeling_layers import GenericForSequenceClassification

    base = base_model(model)
    attentions = [m.is_causal for m in base.modules() if hasattr(m, "is_causal")]
    return (
        isinstance(base, GenericForSequenceClassification)
        and base.config._attn_implementation == "sdpa"
        and bool(attentions)
        and all(attentions)
    )


class Classification(Labelling):
    """A classification head over the last token (decoders) or the pooled text (encoders)."""

    @classmethod
    def auto_class(cls) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    @classmethod
    def encoder(cls, recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
        """Ids of the text alone."""
        return prompts.text_encoder(recipe, tokenizer, label_names)

    @classmethod
    def for_model(cls, plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> Classification:
        needs_mask = not hides_padding(model)
        loss = losses.of(plan, prepared)
        return cls(tokenizer.pad_token_id, plan.accelerator.pads_to, loss, needs_mask=needs_mask)

    def __init__(self, pad_id: int, multiple: int, loss: Loss, *, needs_mask: bool = True) -> None:
        self._pad_id, self._multiple, self._loss = pad_id, multiple, loss
        self._needs_mask = needs_mask

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids = [row["input_ids"] for row in rows]
        input_ids, mask = pad(ids, self._pad_id, self._multiple, left=False)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": torch.tensor([r["labels"] for r in rows])}

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self._loss(self.scores(model, batch), batch["labels"])

    def count(self, batch: dict[str, Tensor]) -> int | float | None:
        return None if self._loss.weights is None else self._loss.count(batch["labels"])

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Evaluated:
        logits = self.scores(model, batch)
        return evaluated(batch, logits, self._loss.of_rows(logits, batch["labels"]))

    def scores(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        mask = {"attention_mask": batch["attention_mask"]} if self._needs_mask else {}
        logits: Tensor = model(input_ids=batch["input_ids"], **mask).logits
        return logits.float()
