"""Texts of one model on one rank, by transformers' `generate`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from launcher.worker.chat.turns import without_thoughts
from launcher.worker.generation.sampling import RowSampling, row_seed
from launcher.worker.tasks.base import base_model, pad
from launcher.worker.training.random_state import random_state, set_random_state

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

    from launcher.worker.generation.settings import Settings


class Generator:
    """Prompts in, texts out, as tokens."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: Settings,
        *,
        multiple: int = 1,
        precision: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
        beat: Callable[[], None] = lambda: None,
        in_step: bool = False,
    ) -> None:
        """
        Args:
            model: in evaluation mode where it is called.
            multiple: of which the length of the prompts of a batch is one.
            precision: makes the context that the model computes in.
            beat: called at each token.
            in_step: all ranks take part in each token, since each has a part of the weights; they all call `generate`
                equally often.
        """
        self._model = base_model(model)
        self._tokenizer = tokenizer
        self._settings = settings
        self._multiple = multiple
        self._precision = precision
        self._beat = beat
        self._in_step = in_step

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        *,
        streamer: BaseStreamer | None = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> list[list[int]]:
        """The tokens that follow each prompt, without the one that ends them.

        Args:
            prompts: of one batch, none of them empty.
            rows: their numbers, on which what is drawn depends.
            streamer: as `generate` takes it, of one prompt.
            is_over: asked at each token, whether to end with what there is.
        """
        device, settings = self._model.device, self._settings
        ids, mask = pad(prompts, self._tokenizer.pad_token_id, self._multiple, left=True)
        seeds = [row_seed(settings.seed, row) for row in rows]
        draws = [*settings.warpers, RowSampling(seeds)] if settings.draws else []
        with torch.no_grad(), self._precision():
            out = self._model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings.config,
                logits_processor=LogitsProcessorList(draws),
                stopping_criteria=StoppingCriteriaList([_EachToken(self._beat, is_over)]),
                tokenizer=self._tokenizer,
                streamer=streamer,
                synced_gpus=self._in_step,
            )
        return [self._until_end(row) for row in out[:, ids.shape[1] :].tolist()]

    def text(self, ids: Sequence[int]) -> str:
        """What is said, without special tokens, and up to a word that ends it."""
        said: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for word in self._settings.stop_strings:
            said = said.partition(word)[0]
        return said.strip()

    def answer(self, ids: Sequence[int]) -> str:
        """The same without thoughts."""
        return without_thoughts(self.text(ids))

    def _until_end(self, row: list[int]) -> list[int]:
        ends = self._settings.stops
        row = row[: next((at for at, token in enumerate(row) if token in ends), len(row))]
        while row and row[-1] == self._tokenizer.pad_token_id:
            row.pop()
        return row


class _EachToken(StoppingCriteria):
    """Ends nothing unless asked to."""

    def __init__(self, beat: Callable[[], None], is_over: Callable[[], bool]) -> None:
        self._beat = beat
        self._is_over = is_over

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._beat()
        return torch.full((len(input_ids),), self._is_over(), dtype=torch.bool, device=input_ids.device)


@contextlib.contextmanager
def evaluating(model: Any, device: torch.device) -> Iterator[None]:
    """With the model in evaluation mode; afterwards it, and the random generators, are as they were."""
    was_training, before = model.training, random_state(device)
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        set_random_state(before, device)
