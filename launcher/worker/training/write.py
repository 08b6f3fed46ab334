"""Texts for prompts: what a rank of a prediction does whose model writes, and what `chat` asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.models import positions
from launcher.rundir.chunks import REFUSED
from launcher.worker.generation.generate import Generator
from launcher.worker.generation.settings import settings
from launcher.worker.models import load
from launcher.worker.models.tokenizer import load_tokenizer
from launcher.worker.tasks import table
from launcher.worker.training import precision

if TYPE_CHECKING:
    import torch
    from transformers.generation.streamers import BaseStreamer

    from launcher.planning.plan import Plan
    from launcher.rundir.prepared import Prepared
    from launcher.worker.runtime.peers import Peers

Item = Mapping[str, Any]
"""`line`, on which what is drawn depends, and `conversation`, as JSON."""
Answer = dict[str, Any]
STOP, LENGTH = "stop", "length"
"""Why a text ends, as servers of models call it: by itself, or as it may not be longer."""
_THOUGHTS = "<think>"


class Writer:
    """Prompts in, texts out, in the same order."""

    def __init__(
        self,
        plan: Plan,
        tokenizer: Any,
        model: Any,
        where: torch.device,
        beat: Callable[[], None] = lambda: None,
        peers: Peers | None = None,
    ) -> None:
        """
        Args:
            model: on its device, in evaluation mode.
            beat: called at each token.
            peers: the other ranks, where each holds a share of the weights.
        """
        recipe = plan.recipe
        self.tokenizer = tokenizer
        self._peers = peers
        self._settings = settings(recipe, model, tokenizer)
        self._encode = table.of(recipe).encoder(recipe, tokenizer, ())
        self._room = _positions(model.config)
        self._size = plan.batch.eval_size
        self._generator = Generator(
            model,
            tokenizer,
            self._settings,
            multiple=plan.accelerator.pads_to,
            precision=lambda: precision.of(plan, where),
            beat=beat,
            in_step=peers is not None,
        )

    @classmethod
    def whole(
        cls, plan: Plan, prepared: Prepared, where: torch.device, beat: Callable[[], None] = lambda: None
    ) -> Writer:
        """With a model of this rank's own."""
        tokenizer = load_tokenizer(plan.recipe, Path(prepared.tokenizer_path))
        return cls(plan, tokenizer, load.load_model(plan, prepared, tokenizer).to(where).eval(), where, beat)

    def __call__(self, items: Sequence[Item]) -> list[Answer]:
        """Of each row `text`, `finish_reason` and, of a model that thinks before it says something, `reasoning`; or why a row
        cannot be answered. Peers all call it equally often, with rows or without."""
        answers: list[Answer] = [{} for _ in items]
        prompts: dict[int, Sequence[int]] = {}
        for i, item in enumerate(items):
            try:
                prompts[i] = self._prompt(item)
            except LaunchError as error:
                answers[i] = {REFUSED: error.what}
        batches = list(self._batches(prompts))
        # Asked before the first token, since each token of any rank is one of all.
        most = len(batches) if self._peers is None else max(self._peers.gather(len(batches)))
        for rows in batches:
            ids = [prompts[i] for i in rows]
            written = self._generator.generate(ids, [items[i]["line"] for i in rows], is_over=self._over(ids))
            for i, tokens in zip(rows, written, strict=True):
                answers[i] = self._answer(tokens, self._most(prompts[i]))
        for _ in range(most - len(batches)):  # with peers that have more: a token of no row
            self._generator.generate([[next(iter(self._settings.stops), 0)]], [0], is_over=lambda: True)
        return answers

    def _prompt(self, item: Item) -> Sequence[int]:
        """Its tokens. Raises LaunchError where the chat template refuses it, or the model has no room for an answer."""
        (ids,) = self._encode.ids([item])
        if self._most(ids) < 1:
            raise LaunchError(
                "the prompt has {count:,} tokens, and the model takes {room:,} with its answer",
                hint="make it shorter",
                count=len(ids),
                room=self._room,
            )
        return ids

    def stream(
        self, conversation: Mapping[str, Any], line: int, streamer: BaseStreamer, is_over: Callable[[], bool]
    ) -> Answer:
        """The answer to one conversation, whose tokens go to `streamer` as they come.

        Raises:
            LaunchError: the chat template refuses it, or the model has no room for an answer.
        """
        ids = self._prompt({"line": line, "conversation": json.dumps(conversation)})
        is_full = self._over([ids])

        def over() -> bool:
            return is_full() or is_over()

        (tokens,) = self._generator.generate([ids], [line], streamer=streamer, is_over=over)
        return self._answer(tokens, self._most(ids))

    def _answer(self, tokens: Sequence[int], most: int) -> Answer:
        """What tokens say, of which there may have been `most`."""
        text, said = self._generator.text(tokens), self._generator.answer(tokens)
        thoughts = text.removesuffix(said).strip() if said != text else ""
        thoughts = thoughts.removesuffix("</think>").removeprefix(_THOUGHTS).strip()
        return {
            "text": said,
            **({"reasoning": thoughts} if thoughts else {}),
            "finish_reason": LENGTH if len(tokens) >= most else STOP,
        }

    def _batches(self, prompts: Mapping[int, Sequence[int]]) -> Iterator[list[int]]:
        """Rows that are computed together, the longest first. Those whose texts may not be as long as the others' are alone."""
        order = sorted(prompts, key=lambda i: -len(prompts[i]))
        alone = [i for i in order if self._most(prompts[i]) < self._settings.new_tokens]
        others = order[len(alone) :]
        yield from ([i] for i in alone)
        for start in range(0, len(others), self._size):
            yield others[start : start + self._size]

    def _most(self, prompt: Sequence[int]) -> int:
        """How many tokens may follow a prompt."""
        most = self._settings.new_tokens
        return most if self._room is None else min(most, self._room - len(prompt))

    def _over(self, prompts: Sequence[Sequence[int]]) -> Callable[[], bool]:
        """Asked at each token of a batch: whether it was the last that there is room for."""
        most, count = min(map(self._most, prompts)), 0

        def is_over() -> bool:
            nonlocal count
            count += 1
            return count >= most

        return is_over


def _positions(config: Any) -> int | None:
    """How many tokens the model takes; None where nothing says so."""
    text = config.get_text_config()
    table = positions.positions(text.to_dict())
    known = getattr(text, "max_position_embeddings", None)
    return table[0] if table is not None else known if isinstance(known, int) and known > 0 else None
