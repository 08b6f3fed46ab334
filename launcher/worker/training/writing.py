"""What the model writes of the rows that are evaluated, on all ranks together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.metrics import OF_GENERATION
from launcher.rundir import records
from launcher.text import gib
from launcher.worker.accelerators import table as accelerators
from launcher.worker.batching.splits import lengths
from launcher.worker.chat.encode import PROMPT, REFERENCE
from launcher.worker.engines import table
from launcher.worker.generation import rows as choice
from launcher.worker.generation.generate import Generator, evaluating
from launcher.worker.generation.settings import Settings, positions, settings
from launcher.worker.runtime.stop_signals import EvaluationStopped, received
from launcher.worker.tasks.base import base_model

if TYPE_CHECKING:
    from datasets import Dataset

    from launcher.planning.plan import Plan
    from launcher.recipe.schema import Generation
    from launcher.worker.engines.device import Rank
    from launcher.worker.runtime.peers import Peers

TEXT = OF_GENERATION[0]
_ROOM = 0.9
"""Share of the memory that is free that whole weights and a batch's keys and values may take."""


class Writing:
    """The rows that are written, and how."""

    def __init__(
        self,
        plan: Plan,
        rank: Rank,
        model: Any,
        tokenizer: Any,
        rows: Dataset,
        *,
        peers: Peers,
        events: Any,
        beat: Callable[[], None],
    ) -> None:
        """
        Args:
            rows: that are evaluated, with PROMPT and REFERENCE.
            beat: called at each token.

        Raises:
            LaunchError: nothing can be written of any of them.
        """
        assert plan.recipe.generation is not None
        self._plan, self._rank, self._peers, self._events, self._beat = plan, rank, peers, events, beat
        self._tokenizer, self._rows = tokenizer, rows
        self._asked: Generation = plan.recipe.generation
        self._settings: Settings = settings(plan.recipe, model, tokenizer)
        self._lengths = lengths(rows, PROMPT)
        longest = choice.longest(
            positions(model), new_tokens=self._settings.new_tokens, max_length=plan.recipe.data.max_length
        )
        self.chosen = choice.chosen(self._lengths, longest=longest, limit=self._asked.rows, seed=self._asked.seed)
        self._note(longest)

    def _note(self, longest: int) -> None:
        """Raises LaunchError where no row is left."""
        without, too_long = int((self._lengths == 0).sum()), int((self._lengths > longest).sum())
        facts: dict[str, Any] = {
            "count": len(self._lengths),
            "without": without,
            "too_long": too_long,
            "longest": longest,
        }
        if not self.chosen:
            raise LaunchError(
                "generation: none of the {count} rows that are evaluated can be written: {without} have no answer, or a "
                "longer prompt than data.max_length, and {too_long} a prompt of more than {longest} tokens, which leaves "
                "no room for the text",
                hint="evaluate conversations, or set a smaller generation.max_new_tokens",
                **facts,
            )
        if without or too_long:
            self._events.emit(
                records.Note(
                    text=Message(
                        "generation: of the {count} rows that are evaluated, {without} are not written that have no "
                        "answer or a longer prompt than data.max_length, and {too_long} whose prompt has more than "
                        "{longest} tokens",
                        **facts,
                    )
                )
            )

    def is_due(self, evaluations: int) -> bool:
        """Whether the next evaluation is one of those at which texts are written; `evaluations` came before it."""
        return (evaluations + 1) % self._asked.every == 0

    def write(self, trainer: Any, went_on: Callable[[int, int], None]) -> dict[str, list[str | None]] | None:
        """The columns of all rows, on the first rank; None on others. Every rank must call it.

        A signal to stop is looked at after each token where a rank writes for itself, and else after each batch.

        Args:
            went_on: called after each batch, equally often on all ranks, with how many rows are done of how many.

        Raises:
            EvaluationStopped: on all ranks, where a text of one of them was cut short.
        """
        plan, own = self._plan, self._rank.index
        whole = not plan.sharing.shards_parameters or self._gathers(trainer)
        made = Generator(
            trainer.model,
            self._tokenizer,
            self._settings,
            multiple=plan.accelerator.pads_to,
            precision=trainer.compute_loss_context_manager,
            beat=self._beat,
            in_step=not whole,
        )

        def is_over() -> bool:
            return whole and received() is not None

        texts: dict[int, str] = {}
        share = choice.rounds(
            self.chosen,
            self._lengths,
            size=plan.batch.eval_size,
            rank=plan.data_parallel_rank(own),
            world_size=plan.data_parallel_size,
        )
        with evaluating(trainer.model, trainer.args.device), table.of(plan).gathered(trainer, whole=whole):
            for rows, counts, done in share:
                if counts or not whole:
                    ids = made.generate(self._rows[rows][PROMPT], rows, is_over=is_over)
                    if counts and plan.counts_rows(own):
                        texts |= {row: made.answer(one) for row, one in zip(rows, ids, strict=True)}
                went_on(done, len(self.chosen))
        if any(self._peers.gather(int(is_over()))):
            raise EvaluationStopped
        gathered = self._peers.gather_to_first(texts)
        return None if gathered is None else self._columns({k: v for part in gathered for k, v in part.items()})

    def _columns(self, texts: dict[int, str]) -> dict[str, list[str | None]]:
        columns: dict[str, list[str | None]] = {name: [None] * len(self._lengths) for name in (PROMPT, REFERENCE, TEXT)}
        asked = self._rows[self.chosen]
        for row, ids, reference in zip(self.chosen, asked[PROMPT], asked[REFERENCE], strict=True):
            columns[PROMPT][row] = self._tokenizer.decode(ids)
            columns[REFERENCE][row] = reference
            columns[TEXT][row] = texts[row]
        return columns

    def _gathers(self, trainer: Any) -> bool:
        """Whether each rank holds all weights meanwhile: as the recipe says, else where all ranks have room for them."""
        if self._asked.gather_weights is not None:
            return self._asked.gather_weights
        needed = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in trainer.model.parameters())
        needed += self._cache_bytes(trainer)
        free = min(row[0] for row in self._peers.gather_numbers([float(_free_bytes(trainer.args.device, self._rank))]))
        if needed <= _ROOM * free:
            return True
        self._events.emit(
            records.Note(
                text=Message(
                    "generation: each rank keeps its part of the weights, which is slow, since all of them take {needed} "
                    "and {free} are free",
                    needed=gib(needed),
                    free=gib(int(free)),
                )
            )
        )
        return False

    def _cache_bytes(self, trainer: Any) -> int:
        """Keys and values of a batch of the longest prompts, as if each layer attended to all of them."""
        config = base_model(trainer.model).config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        per_token = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width * 4
        tokens = int(np.max(self._lengths[self.chosen])) + self._settings.new_tokens
        return int(self._plan.batch.eval_size * (self._settings.config.num_beams or 1) * tokens * per_token)


def _free_bytes(device: Any, rank: Rank) -> int:
    cards = accelerators.module_of(device)
    if cards is None:
        return math.floor(psutil.virtual_memory().available / rank.local_world_size)
    return int(cards.mem_get_info(device)[0] + cards.memory_reserved(device) - cards.memory_allocated(device))
