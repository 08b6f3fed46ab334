"""Labels or values for a text or a pair of texts, from a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from launcher.recipe.schema import NO_DATA
from launcher.recipe.tasks.table import MANY_LABELS, ONE_LABEL, VALUES
from launcher.worker.losses import table as losses
from launcher.worker.tasks import prompts
from launcher.worker.tasks.base import (
    Encoder,
    Evaluated,
    Labelling,
    asked,
    base_model,
    pad,
)
from launcher.worker.tasks.targets import ManyLabels, OneLabel, Targets, Values

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
        """Ids of the text alone, or of the two texts of a row."""
        return prompts.text_encoder(recipe, tokenizer, label_names)

    @classmethod
    def for_model(cls, plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> Classification:
        recipe = plan.recipe
        kinds: dict[str, Targets] = {
            ONE_LABEL: OneLabel(asked(recipe)),
            MANY_LABELS: ManyLabels(prepared.num_labels, recipe.model.threshold, asked(recipe)),
            VALUES: Values(),
        }
        targets = kinds[_targets(plan, base_model(model).config)]
        loss, needs_mask = losses.of(plan, prepared), not hides_padding(model)
        return cls(tokenizer.pad_token_id, plan.accelerator.pads_to, targets, loss, needs_mask=needs_mask)

    def __init__(self, pad_id: int, multiple: int, targets: Targets, loss: Loss, *, needs_mask: bool = True) -> None:
        self._pad_id, self._multiple = pad_id, multiple
        self._targets, self._loss = targets, loss
        self._needs_mask = needs_mask

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        input_ids, mask = pad([row["input_ids"] for row in rows], self._pad_id, self._multiple, left=False)
        batch = {"input_ids": input_ids, "attention_mask": mask}
        if prompts.SEGMENTS in rows[0]:
            types = [row[prompts.SEGMENTS] for row in rows]
            batch[prompts.SEGMENTS] = pad(types, 0, self._multiple, left=False)[0]
        return batch | self._targets.batch([row["labels"] for row in rows])

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self._loss(self.scores(model, batch), batch["labels"])

    def count(self, batch: dict[str, Tensor]) -> int | float | None:
        return None if self._loss.weights is None else self._loss.count(batch["labels"])

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Evaluated:
        scores = self.scores(model, batch)
        return self._targets.evaluated(scores, batch, self._loss.of_rows(scores, batch["labels"]))

    def answers(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> list[Any]:
        return self._targets.answers(self.scores(model, batch))

    def scores(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        mask = {"attention_mask": batch["attention_mask"]} if self._needs_mask else {}
        types = {key: batch[key] for key in (prompts.SEGMENTS,) if key in batch}
        logits: Tensor = model(input_ids=batch["input_ids"], **mask, **types).logits
        return logits.float()


def _targets(plan: Plan, config: Any) -> str:
    """What the head gives: as the recipe says, or as trained weights say that nothing lies beside."""
    recipe = plan.recipe
    if plan.use is None or recipe.model.problem_type is not None or recipe.data.path != NO_DATA:
        return recipe.targets
    if config.problem_type is None:
        return VALUES if config.num_labels == 1 else ONE_LABEL
    return recipe.task.targets(recipe.model.model_copy(update={"problem_type": config.problem_type}), recipe.data)
