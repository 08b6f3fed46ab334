"""A label for a text, as a causal language model writes it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from launcher.worker.losses import table as losses
from launcher.worker.tasks import prompts
from launcher.worker.tasks.base import (
    IGNORED,
    Encoder,
    Evaluated,
    Labelling,
    asked,
    base_model,
    evaluated,
    pad,
    smoothing,
)

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared
    from launcher.worker.losses.weights import LabelWeights


class Answering(Labelling):
    """A causal LM that writes the label's answer.

    The loss of a row is the mean over its answer's tokens, end of turn included. A label's score is the log-probability
    of its answer; the highest wins. Where no answer begins another the end of turn is left out of the score, which is
    then the probability that what the model writes starts with that answer.

    Rows are padded on the left, so answers end together and logits are computed for those last positions alone: with
    a vocabulary of 128k they would else be the largest tensor of all.
    """

    def __init__(
        self,
        pad_id: int,
        multiple: int,
        smoothing: float,
        answer_ids: Sequence[Sequence[int]],
        accepted: set[str],
        weights: LabelWeights | None = None,
        more: Collection[str] = (),
    ) -> None:
        self._more = more
        self._pad_id, self._multiple, self._smoothing = pad_id, multiple, smoothing
        self._weights = weights
        self._answers = [list(a) for a in answer_ids]
        self._slices_itself = "logits_to_keep" in accepted
        self._takes_positions = "position_ids" in accepted
        stems = [a[:-1] for a in self._answers]
        self._prefix_free = all(
            s[: len(o)] != o for i, s in enumerate(stems) for j, o in enumerate(stems) if i != j
        ) and all(stems)
        self._one_token = self._prefix_free and all(len(s) == 1 for s in stems)

    @classmethod
    def auto_class(cls) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    @classmethod
    def encoder(cls, recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
        """Ids of a chat up to where the answer begins.

        Raises:
            LaunchError: the prompt leaves no room for the text, or two answers are the same tokens, or the chat template
                refuses the messages.
        """
        return prompts.answer_encoder(recipe, tokenizer, label_names)

    @classmethod
    def for_model(cls, plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> Answering:
        assert prepared.answer_ids is not None
        accepted = set(inspect.signature(base_model(model).forward).parameters)
        return cls(
            tokenizer.pad_token_id,
            plan.accelerator.pads_to,
            smoothing(plan),
            prepared.answer_ids,
            accepted,
            losses.weights_of(plan, prepared),
            asked(plan.recipe),
        )

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return self._batch(rows, [self._answers[row["labels"]] for row in rows])

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = self._answer_logits(model, batch)
        mean = self._mean_loss(logits, batch["targets"], self._smoothing)
        return mean if self._weights is None else mean * self._weights.on(mean.device)[batch["labels"]]

    def count(self, batch: dict[str, Tensor]) -> int | float | None:
        return None if self._weights is None else self._weights.count(batch["labels"])

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Evaluated:
        logits = self._answer_logits(model, batch)
        losses = self._mean_loss(logits, batch["targets"], 0.0)
        return evaluated(batch, self._scores(model, batch, logits), losses, self._more)

    def scores(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self._scores(model, batch, self._answer_logits(model, batch) if self._one_token else None)

    def _scores(self, model: torch.nn.Module, batch: dict[str, Tensor], logits: Tensor | None) -> Tensor:
        if self._one_token:
            assert logits is not None
            # All answers share the prompt, so one forward scores them all at the position of their first token.
            first = (batch["targets"] != IGNORED).int().argmax(-1)
            first_logits = logits[torch.arange(len(first), device=first.device), first]
            return first_logits[:, [a[0] for a in self._answers]]
        return torch.stack([self._score(model, batch, answer) for answer in self._answers], dim=-1)

    def _score(self, model: torch.nn.Module, batch: dict[str, Tensor], answer: list[int]) -> Tensor:
        prompts = [
            ids[mask.bool()][: int(length)].tolist()
            for ids, mask, length in zip(
                batch["input_ids"], batch["attention_mask"], batch["prompt_length"], strict=True
            )
        ]
        candidate = self._batch([{"input_ids": p, "labels": 0} for p in prompts], [answer] * len(prompts))
        candidate = {k: v.to(batch["input_ids"].device) for k, v in candidate.items()}
        scored = candidate["targets"].clone()
        if self._prefix_free:
            scored[:, -1] = IGNORED
        return -self._token_losses(self._answer_logits(model, candidate), scored, 0.0).sum(-1)

    def _batch(self, rows: Sequence[dict[str, Any]], answers: list[list[int]]) -> dict[str, Tensor]:
        ids = [[*row["input_ids"], *answer] for row, answer in zip(rows, answers, strict=True)]
        input_ids, mask = pad(ids, self._pad_id, self._multiple, left=True)
        longest = max(map(len, answers))
        targets = torch.tensor([[IGNORED] * (longest - len(a)) + a for a in answers])
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "targets": targets,
            "prompt_length": torch.tensor([len(row["input_ids"]) for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    def _answer_logits(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Logits that predict the answer positions: (rows, answer length, vocabulary), fp32."""
        mask, length = batch["attention_mask"], batch["targets"].shape[1]
        inputs = {"input_ids": batch["input_ids"], "attention_mask": mask}
        if self._takes_positions:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        keep = {"logits_to_keep": length + 1} if self._slices_itself else {}
        logits: Tensor = model(**inputs, **keep).logits
        return logits[:, -length - 1 : -1].float()

    def _mean_loss(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        return self._token_losses(logits, targets, smoothing).sum(-1) / (targets != IGNORED).sum(-1)

    @staticmethod
    def _token_losses(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        losses = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
        )
        return losses.view_as(targets)
