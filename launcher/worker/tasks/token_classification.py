"""A label for each word, from a head over the word's first token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from launcher.worker.losses import table as losses
from launcher.worker.tasks import words
from launcher.worker.tasks.base import Encoder, Evaluated, RowByRow, labels_of, pad
from launcher.worker.tasks.predictions import NO_LABEL

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared
    from launcher.worker.losses.base import Loss


class TokenClassification(RowByRow):
    """Losses are of words, and a step's is divided by their number, or by their weights."""

    def __init__(self, pad_id: int, multiple: int, loss: Loss) -> None:
        self._pad_id, self._multiple, self._loss = pad_id, multiple, loss

    @classmethod
    def auto_class(cls) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    @classmethod
    def encoder(cls, recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
        """Ids of words, and where each begins."""
        return words.word_encoder(recipe, tokenizer, label_names)

    @classmethod
    def for_model(cls, plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> TokenClassification:
        return cls(tokenizer.pad_token_id, plan.accelerator.pads_to, losses.of(plan, prepared))

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """`sources`: where each word's first token is in the flattened ids. `labels`: of those words. `num_words`: of each
        row."""
        ids, mask = pad([row["input_ids"] for row in rows], self._pad_id, self._multiple, left=False)
        starts = [torch.as_tensor(row[words.STARTS], dtype=torch.long) for row in rows]
        labels = [_labels(row.get("labels"), len(own)) for row, own in zip(rows, starts, strict=True)]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "sources": torch.cat([i * ids.shape[1] + own for i, own in enumerate(starts)]),
            "labels": torch.cat(labels),
            "num_words": torch.tensor([len(own) for own in starts]),
        }

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        scores = self._scores(model, batch)
        return self._loss(scores, batch["labels"]) if len(scores) else scores.sum()

    def count(self, batch: dict[str, Tensor]) -> int | float | None:
        return self._loss.count(batch["labels"])

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Evaluated:
        """Of each row its words' labels and predictions, and the sum of their losses."""
        scores = self._scores(model, batch)
        of_words = self._loss.of_rows(scores, batch["labels"]) if len(scores) else scores.sum(-1)
        counts = batch["num_words"].cpu()
        owners = torch.repeat_interleave(torch.arange(len(counts)), counts)
        summed = torch.zeros(len(counts), dtype=torch.float64).index_add(0, owners, of_words.cpu().double())
        columns = {"label": _by_row(batch["labels"], counts), "prediction": _by_row(labels_of(scores), counts)}
        return Evaluated(columns, summed, counts)

    def answers(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> list[Any]:
        """The number of each word's tag, None where a score is NaN or infinite."""
        tags = _by_row(labels_of(self._scores(model, batch)), batch["num_words"].cpu())
        return [{"tags": [None if tag == NO_LABEL else tag for tag in row]} for row in tags]

    def _scores(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """fp32, (words, labels)."""
        logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits.flatten(0, 1).index_select(0, batch["sources"]).float()


def _labels(labels: Any, count: int) -> Tensor:
    """Of a row's first words; 0 of all of a row that `predict` is asked about."""
    if not isinstance(labels, Sequence):
        return torch.zeros(count, dtype=torch.long)
    return torch.as_tensor(labels[:count], dtype=torch.long)


def _by_row(values: Tensor, counts: Tensor) -> list[list[int]]:
    return [part.tolist() for part in values.cpu().split(counts.tolist())]
