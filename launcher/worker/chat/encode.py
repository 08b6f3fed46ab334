"""Rows of conversations and texts as tokens, each with whether it is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.messages import Message
from launcher.recipe.metrics import OF_GENERATION
from launcher.recipe.tasks.sft import TOO_LONG, Chats, TooLong
from launcher.worker.chat import tokens
from launcher.worker.chat.prompts import Prompts
from launcher.worker.chat.speaker import Speaker
from launcher.worker.chat.templates import TODAY
from launcher.worker.chat.tokens import Row
from launcher.worker.tasks.encoding import Encoder, Seen

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec

COLUMNS = ("input_ids", "trained")
PROMPT, REFERENCE = "prompt", OF_GENERATION[1]
"""Columns of rows that are evaluated, where the recipe has the model write."""
_LEFT_OUT: dict[TooLong, str] = {
    "cut": Message("no answer, none within data.max_length, or each with train: false"),
    "drop": Message("longer than data.max_length, no answer, or each with train: false"),
    "split": Message("no answer, or each with train: false"),
}
"""What may be the reason of rows of which nothing is trained."""


def encoder(recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str] = ()) -> Encoder:
    """How rows of `task: sft` become tokens. A row in which nothing is trained becomes none.

    Raises:
        LaunchError: there is no chat template, or it is none; of `rows`: it refuses a row.
    """
    rows, prompts = Rows(recipe, tokenizer), Prompts(recipe, tokenizer)

    def asked(items: list[Any]) -> list[Sequence[int]]:
        return prompts.ids([json.loads(item["conversation"]) for item in items])

    def seen(columns: Mapping[str, list[Any]]) -> list[Seen]:
        (values,) = columns.values()
        return rows.seen(values)

    def encoded(columns: Mapping[str, list[Any]]) -> Mapping[str, list[Any]]:
        return _columns(seen(columns))

    made = Encoder(asked, rows.settings(), rows=encoded, columns=COLUMNS, seen=seen, left_out=rows.left_out)
    if recipe.generation is None:
        return made
    return replace(made, of_evaluated=_of_evaluated(made, prompts, recipe.data.max_length))


def _columns(seen: Sequence[Seen]) -> dict[str, list[Any]]:
    parts = [part for row in seen for part in row.parts]
    return {name: [part[i] for part in parts] for i, name in enumerate(COLUMNS)}


def _of_evaluated(made: Encoder, prompts: Prompts, longest: int) -> Encoder:
    """With what each conversation's last answer is to: the PROMPT's tokens, none where nothing is asked or they are more than
    `longest`, and the REFERENCE. Of a row that becomes several, the last one has them."""

    def encoded(columns: Mapping[str, list[Any]]) -> Mapping[str, list[Any]]:
        (values,) = columns.values()
        assert made.seen is not None
        seen = made.seen(columns)
        out = {**_columns(seen), PROMPT: [], REFERENCE: []}
        asked = prompts.asked([json.loads(value) for value in values])
        for row, question in zip(seen, asked, strict=True):
            fits = question is not None and len(question.ids) <= longest
            own = question if fits else None
            for last in range(len(row.parts) - 1, -1, -1):
                out[PROMPT].append(own.ids if own is not None and not last else np.zeros(0, np.int32))
                out[REFERENCE].append(own.reference if own is not None and not last else None)
        return out

    settings = made.settings | {"prompts": 1}
    return replace(made, rows=encoded, settings=settings, columns=(*COLUMNS, PROMPT), texts=(REFERENCE,))


class Rows:
    """What a recipe makes of its rows."""

    def __init__(self, recipe: RecipeSpec, tokenizer: Any) -> None:
        self._chats = Chats.of(recipe.data)
        self._max_length = recipe.data.max_length
        self._tokenizer = tokenizer
        self._speaker = Speaker(tokenizer, self._chats)
        self.left_out = _LEFT_OUT[self._chats.too_long or TOO_LONG[False]]
        """Why rows become none."""

    def settings(self) -> dict[str, Any]:
        """Everything that the tokens depend on besides the tokenizer, its template among it, and the length."""
        chats = self._chats
        return {
            "task": "sft",
            "train_on": chats.train_on,
            "thinking": chats.thinking,
            "too_long": chats.too_long,
            "date": TODAY.isoformat(),
        }

    def seen(self, values: Sequence[str]) -> list[Seen]:
        """What becomes of conversations and texts, each as JSON.

        Raises:
            LaunchError: the chat template refuses one.
        """
        conversations = [json.loads(value) for value in values]
        texts = [self._speaker.text(conversation) for conversation in conversations if "text" not in conversation]
        chats = iter(tokens.of_chats(self._tokenizer, texts))
        documents = iter(tokens.of_documents(self._tokenizer, [c["text"] for c in conversations if "text" in c]))
        thoughts = iter(text.thoughts_left_out for text in texts)
        out = []
        for conversation in conversations:
            is_document = "text" in conversation
            row = next(documents if is_document else chats)
            parts = [(*part,) for part in self._parts(row, is_document)]
            is_split = len(row.input_ids) > self._max_length and self._way(is_document) == "split"
            out.append(Seen((*row,), parts, 0 if is_document else next(thoughts), is_split))
        return out

    def _way(self, is_document: bool) -> TooLong:
        """What becomes of rows that are too long."""
        return self._chats.too_long or TOO_LONG[is_document]

    def _parts(self, row: Row, is_document: bool) -> Iterator[Row]:
        """What a row becomes within max_length: one row, none where nothing of it is trained, or several where long ones are
        split."""
        length, is_longer = self._max_length, len(row.input_ids) > self._max_length
        way = self._way(is_document)
        if is_longer and way == "drop":
            return
        # The last token of a part is the first of the next, which predicts from there on: none is left out.
        for start in range(0, len(row.input_ids) - 1, length - 1) if is_longer and way == "split" else (0,):
            part = Row(row.input_ids[start : start + length], row.trained[start : start + length].copy())
            part.trained[:1] = 0
            if part.trained.any():
                yield part
