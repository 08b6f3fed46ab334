"""The half of the task that runs in ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from launcher.worker.tasks import prompts
from launcher.worker.tasks.base import IGNORED, Encoder, Evaluated, RowByRow, pad

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared


class Writing(RowByRow):
    """A causal LM that learns whole texts."""

    def __init__(self, pad_id: int, multiple: int) -> None:
        self._pad_id, self._multiple = pad_id, multiple

    @classmethod
    def auto_class(cls) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    @classmethod
    def encoder(cls, recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
        skip = getattr(recipe.data, "skip", 0)

        def ids(texts: list[str]) -> list[Sequence[int]]:
            return prompts.token_ids(tokenizer, texts, special=True, max_length=recipe.data.max_length)

        def rows(columns: Mapping[str, list[Any]]) -> Mapping[str, list[Sequence[int]]]:
            found = [[int(i) for i in row] for row in ids(columns[recipe.data.text])]
            targets = [[IGNORED] * len(row[: skip + 1]) + row[skip + 1 :] for row in found]
            return {"input_ids": found, "targets": targets}

        return Encoder(ids, {"task": recipe.model.task, "skip": skip}, rows=rows, columns=("input_ids", "targets"))

    @classmethod
    def for_model(cls, plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> Writing:
        return cls(tokenizer.pad_token_id, plan.accelerator.pads_to)

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        input_ids, mask = pad([row["input_ids"] for row in rows], self._pad_id, self._multiple, left=False)
        targets = [row.get("targets") or [IGNORED] * len(row["input_ids"]) for row in rows]
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "targets": pad(targets, IGNORED, self._multiple, left=False)[0],
        }

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self._losses(self._logits(model, batch), batch)

    def count(self, batch: dict[str, Tensor]) -> int | None:
        return int((batch["targets"] != IGNORED).sum())

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Evaluated:
        logits, targets = self._logits(model, batch), batch["targets"][:, 1:]
        counts = targets != IGNORED
        correct = ((logits.argmax(-1) == targets) & counts).sum(-1)
        return Evaluated({"correct": correct}, self._losses(logits, batch).sum(-1), counts.sum(-1))

    def answers(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> list[Any]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        last = batch["attention_mask"].sum(-1) - 1
        answers: list[Any] = logits[torch.arange(len(last)), last].argmax(-1).tolist()
        return answers

    @staticmethod
    def _logits(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits[:, :-1].float()

    @staticmethod
    def _losses(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        losses = functional.cross_entropy(
            logits.flatten(0, 1), batch["targets"][:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view(logits.shape[:2])
