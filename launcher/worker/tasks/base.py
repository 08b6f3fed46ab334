"""What a task says of rows, of the loss and of an evaluation, in ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from launcher.recipe.tasks.base import PROBABILITIES, SCORES
from launcher.worker.tasks.encoding import Encoder as Encoder
from launcher.worker.tasks.predictions import NO_LABEL

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared


class Evaluated(NamedTuple):
    """What an evaluation leaves of a batch's rows."""

    columns: Mapping[str, Tensor | Sequence[Any]]
    """What the other half's `columns` names. Of each row a number, or a vector of as many numbers for all rows (a tensor, rows
    first: int64, bool, fp32 or float64); or a JSON value (a list of them), such as a text or a list of tags."""
    losses: Tensor
    """fp32 or float64, (rows,): each row's loss, summed over what counts in it."""
    counts: Tensor
    """int64, (rows,): over how many things."""


class Task(Protocol):
    """The half of a task that runs in ranks. Batches are dicts of tensors, with input_ids and attention_mask.

    A step's loss is the sum of `losses` over the ranks' batches, divided by the sum of their `count`, so that the numbers of
    ranks, of micro batches and of rows in a pack change nothing.
    """

    packs_rows: bool
    """Whether a sequence of a training batch is several rows; `collate` then gets a list of rows for each."""

    @classmethod
    def auto_class(cls) -> Any:
        """transformers' class of its models."""

    @classmethod
    def encoder(cls, recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
        """How rows become tokens. Raises LaunchError for what the recipe would have to change."""

    @classmethod
    def for_model(cls, plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> Task:
        """The task on one rank, once its model is there."""

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Prepared rows (input_ids, labels where the task has them, and further columns) as one padded batch. A row that
        `predict` is asked about has input_ids and 0 for a label, and no other column."""

    def check(self, model: torch.nn.Module, device: torch.device) -> None:
        """Refuse a model that its batches are wrong for, by LaunchError. Called once before the first step or evaluation,
        on every rank, with the model as it is wrapped."""

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Losses that are summed, fp32, of any shape."""

    def count(self, batch: dict[str, Tensor]) -> int | float | None:
        """Over how many things `losses` of this batch sums, or the sum of their weights; None where it is the rows, of which
        all batches have as many."""

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Evaluated:
        """What is left of each row."""

    def answers(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> list[Any]:
        """What `predict` answers to each row, as JSON values that the other half's `answer` takes. The labels of the batch
        are not looked at."""


class RowByRow:
    """Tasks whose sequences are one row each, which any model keeps apart."""

    packs_rows = False

    def check(self, model: torch.nn.Module, device: torch.device) -> None:
        pass


class Labelling(RowByRow):
    """Tasks whose rows have a label and get a score for each label. `scores` are fp32, (rows, labels); their softmax is the
    labels' probability."""

    def count(self, batch: dict[str, Tensor]) -> int | float | None:
        return None

    def scores(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def answers(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> list[Any]:
        return answers_of(self.scores(model, batch))


def answers_of(scores: Tensor) -> list[Any]:
    """(label, probabilities) of each row; (None, None) where a score is NaN or infinite."""
    shares = torch.softmax(scores.float(), -1).tolist()
    pairs = zip(labels_of(scores).tolist(), shares, strict=True)
    return [(None, None) if label == NO_LABEL else (label, share) for label, share in pairs]


def evaluated(batch: dict[str, Tensor], scores: Tensor, losses: Tensor, more: Collection[str] = ()) -> Evaluated:
    """Of rows with a label and scores: the label and the one with the highest score, each row counted once; and of the other
    half's more_columns those that are asked for.
    """
    columns = {"label": batch["labels"], "prediction": labels_of(scores)}
    columns |= {SCORES: scores} if SCORES in more else {}
    # In float64: nearly certain rows have one probability in fp32, and cannot be put in order by it.
    columns |= {PROBABILITIES: torch.softmax(scores.cpu().double(), -1)} if PROBABILITIES in more else {}
    return Evaluated(columns, losses, torch.ones_like(batch["labels"]))


def asked(recipe: RecipeSpec) -> tuple[str, ...]:
    """The columns of the task's more_columns that the recipe needs."""
    return tuple(column for column in recipe.task.more_columns if recipe.asks_for(column))


def smoothing(plan: Plan) -> float:
    return float(plan.training_arguments.get("label_smoothing_factor", 0.0))


def labels_of(scores: Tensor) -> Tensor:
    """The label of each row's highest score; NO_LABEL where one is NaN or infinite, which argmax would take for it."""
    return torch.where(scores.isfinite().all(-1), scores.argmax(-1), NO_LABEL)


def base_model(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


IGNORED = -100
"""A target that no loss is taken of."""


def pad(rows: Sequence[Sequence[int]], pad_id: int, multiple: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both int64 (rows, longest row rounded up to `multiple`)."""
    longest = max(map(len, rows))
    width = -(-longest // multiple) * multiple
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    return ids, mask
