"""What assistants write in conversations, and what texts say, learnt token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from launcher.errors import LaunchError
from launcher.recipe.tasks.sft import Chats
from launcher.worker.chat import encode
from launcher.worker.losses import table as losses
from launcher.worker.losses.cross_entropy import CrossEntropy
from launcher.worker.tasks.base import Evaluated, base_model, smoothing
from launcher.worker.tasks.encoding import Encoder
from launcher.worker.tasks.projection import Projection
from launcher.worker.tasks.sequences import FLASH, Row, batch_of

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.recipe.schema import RecipeSpec
    from launcher.rundir.prepared import Prepared
    from launcher.worker.losses.base import Loss

TOLERANCES: dict[torch.dtype, tuple[float, float]] = {torch.float32: (1e-6, 1e-4)}
LOW_TOLERANCES = 1e-2, 5e-2
"""Between hidden states of a row at different places of a batch, where the shape is the same and where it is not; in fp32 and
in 16 bit. Some ten roundings of a state's largest element: a row that sees another is off by more, and by a hundredth even in a
model of random weights."""


class Sft:
    """A causal language model that learns the tokens of a row that are marked, and is scored by them."""

    packs_rows = False

    def __init__(
        self,
        projection: Projection,
        pad_id: int,
        multiple: int,
        smoothing: float = 0.0,
        *,
        packs_rows: bool = False,
        is_flat: bool = False,
    ) -> None:
        """
        Args:
            projection: the model's last layer.
            pad_id: the token that fills sequences up.
            multiple: of which the length of sequences is one.
            smoothing: label_smoothing_factor.
            packs_rows: whether rows share sequences in training.
            is_flat: whether all rows of a batch are one sequence, without padding between them.
        """
        self._projection = projection
        self.packs_rows = packs_rows
        self._pad_id, self._multiple, self._smoothing = pad_id, multiple, smoothing
        self._is_flat = is_flat

    @classmethod
    def auto_class(cls) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    @classmethod
    def encoder(cls, recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
        """Ids of a conversation or a text, and which of them are trained."""
        return encode.encoder(recipe, tokenizer)

    @classmethod
    def for_model(cls, plan: Plan, prepared: Prepared, tokenizer: Any, model: torch.nn.Module) -> Sft:
        base = base_model(model)
        head = base.get_output_embeddings()
        if head is None:
            raise LaunchError(
                "{kind} has no output projection that a loss of chosen tokens can be taken of",
                hint="use a decoder of transformers with a language-modelling head",
                kind=type(base).__name__,
            )
        return cls(
            Projection(
                head,
                recomputes=plan.precision == "fp16",
                in_one_piece=plan.sharing.shards_parameters,
                total=_total(losses.of(plan, prepared)),
            ),
            tokenizer.pad_token_id,
            plan.accelerator.pads_to,
            smoothing(plan),
            packs_rows=Chats.of(plan.recipe.data).packing,
            is_flat=str(base.config._attn_implementation).startswith(FLASH),
        )

    def collate(self, rows: Sequence[Row | list[Row]]) -> dict[str, Tensor]:
        """One sequence for each row, or for each pack of rows; one of all where the kernel keeps rows apart itself."""
        packs = [item if isinstance(item, list) else [item] for item in rows]
        return batch_of(packs, self._pad_id, self._multiple, flat=self._is_flat)

    def check(self, model: torch.nn.Module, device: torch.device) -> None:
        """Refuse a model in which rows of one sequence see each other; and see what it makes of its logits."""
        was_training = model.training
        model.eval()
        batch = self._probes([_probe(7, 3, self._projection.vocabulary)], device)
        self._projection.is_last_word(_call(model, batch), batch["sources"])
        leaks = (self.packs_rows or self._is_flat) and self._leaks(model, device)
        model.train(was_training)
        if not leaks:
            return
        raise LaunchError(
            "rows that share a sequence change each other in this model: it does not keep their attention, states and "
            "positions apart",
            hint="set data.packing=false" if self.packs_rows else "set model.attn_implementation=sdpa",
        )

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The sum over the batch's trained tokens."""
        return self._projection.loss(_call(model, batch), batch["sources"], batch["targets"], self._smoothing)

    def count(self, batch: dict[str, Tensor]) -> int | None:
        return len(batch["targets"])

    def evaluate(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Evaluated:
        """Of each row: the tokens that were predicted correctly; its loss, summed in float64, and its trained tokens."""
        scored = self._projection.score(_call(model, batch), batch["sources"], batch["targets"])
        owners = batch["owners"].cpu()
        zeros = torch.zeros(len(batch["row_lengths"]), dtype=torch.int64)
        correct = zeros.index_add(0, owners, scored.is_correct.cpu().long())
        losses = zeros.double().index_add(0, owners, scored.losses.cpu().double())
        return Evaluated({"correct": correct}, losses, zeros.index_add(0, owners, torch.ones_like(owners)))

    def answers(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> list[Any]:
        raise NotImplementedError  # the other half says that there is no predict

    def _leaks(self, model: torch.nn.Module, device: torch.device) -> bool:
        """Whether what stands before a row in its sequence changes its hidden states, or where it stands does.

        The row alone, and behind two others. Behind either of them it has the same states to the last bit, but for kernels
        that round by what else is in the batch; alone it has another shape, which rounds otherwise.
        """
        row, *others = (
            _probe(length, first, self._projection.vocabulary) for length, first in ((7, 3), (5, 11), (5, 23))
        )
        alone, *behind = (self._states_of_last(model, rows, device) for rows in ([row], *([o, row] for o in others)))
        exact, rounded = TOLERANCES.get(alone.dtype, LOW_TOLERANCES)
        return _distance(*behind) > exact or _distance(alone, behind[0]) > rounded

    def _probes(self, rows: list[Row], device: torch.device) -> dict[str, Tensor]:
        return {name: value.to(device) for name, value in self.collate([rows]).items()}

    def _states_of_last(self, model: torch.nn.Module, rows: list[Row], device: torch.device) -> Tensor:
        batch = self._probes(rows, device)
        states = self._projection.hidden(_call(model, batch), batch["sources"])
        return states[batch["owners"] == len(rows) - 1]


def _total(loss: Loss) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The sum of a loss; None of the cross entropy, which the projection makes in a better way."""
    return None if isinstance(loss, CrossEntropy) else lambda logits, targets: loss(logits, targets).sum()


def _distance(one: Tensor, other: Tensor) -> float:
    """The greatest difference between two rows' hidden states at one position, relative to the states there."""
    one, other = one.float(), other.float()
    return float(((one - other).norm(dim=-1) / one.norm(dim=-1).clamp(min=1e-30)).max())


def _probe(length: int, first: int, vocabulary: int) -> Row:
    return {"input_ids": [(first + 7919 * i) % vocabulary for i in range(length)], "trained": [0] + [1] * (length - 1)}


def _call(model: torch.nn.Module, batch: dict[str, Tensor]) -> Callable[[], Any]:
    """The model's forward pass. Without `use_cache=False` a cache is made, and rows of a pack see each other."""
    places = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
    return lambda: model(input_ids=batch["input_ids"], use_cache=False, **places)
