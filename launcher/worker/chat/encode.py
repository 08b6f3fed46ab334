"""Rows of conversations and texts as tokens, each with whether it is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.tasks.sft import Chats
from launcher.text import first_line
from launcher.worker.chat.marked import Marked, Span
from launcher.worker.chat.turns import Turns
from launcher.worker.tasks.encoding import Encoder

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec

COLUMNS = ("input_ids", "trained")
TODAY = date(2024, 7, 26)
"""What a template that writes the date gets to know, so that a training is the same on each day."""
_LEFT_OUT = {
    "cut": Message("nothing of them is trained: no answer, or none within data.max_length"),
    "drop": Message("they are longer than data.max_length, or nothing of them is trained"),
    "split": "",
}


class Row(NamedTuple):
    """A row as tokens."""

    input_ids: list[int]
    trained: list[int]
    """1 where a token is to be predicted. Never of the first, which nothing comes before."""


def encoder(recipe: RecipeSpec, tokenizer: Any) -> Encoder:
    """How rows of `task: sft` become tokens. A row in which nothing is trained becomes none.

    Raises:
        LaunchError: there is no chat template, or it is none; of `rows`: it refuses a row.
    """
    rows = Rows(recipe, tokenizer)

    def encoded(columns: Mapping[str, list[Any]]) -> Mapping[str, list[Sequence[int]]]:
        (values,) = columns.values()
        made = [row for value in values for row in rows.encode(value)]
        return {"input_ids": [row.input_ids for row in made], "trained": [row.trained for row in made]}

    left_out = _LEFT_OUT[Chats.of(recipe.data).too_long]
    return Encoder(_no_prediction, rows.settings(), rows=encoded, columns=COLUMNS, left_out=left_out)


def _no_prediction(texts: list[str]) -> list[Sequence[int]]:
    raise LaunchError("predict cannot be used yet with a model that writes")


class Rows:
    """What a recipe makes of its rows."""

    def __init__(self, recipe: RecipeSpec, tokenizer: Any) -> None:
        self._chats = Chats.of(recipe.data)
        self._max_length = recipe.data.max_length
        self._tokenizer = tokenizer
        self._turns: Turns | None = None

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

    def encode(self, value: Any) -> Iterator[Row]:
        """The rows that a row becomes: one, none where nothing of it is trained, or several where long ones are split."""
        row = self.whole(value)
        length, is_longer = self._max_length, len(row.input_ids) > self._max_length
        if is_longer and self._chats.too_long == "drop":
            return
        # The last token of a part is the first of the next, which predicts from there on: none is left out.
        is_split = is_longer and self._chats.too_long == "split"
        for start in range(0, len(row.input_ids) - 1, length - 1) if is_split else (0,):
            part = Row(*(column[start : start + length] for column in row))
            part.trained[:1] = [0] * len(part.trained[:1])
            if any(part.trained):
                yield part

    def whole(self, value: Any) -> Row:
        """A row before it is cut to max_length."""
        conversation = _conversation(value)
        if "text" in conversation:
            return self._text(conversation["text"])
        text = self.turns.text(conversation)
        return self._tokens(text.text, text.trained)

    @property
    def turns(self) -> Turns:
        """Made when a conversation needs it: texts need no template."""
        if self._turns is None:
            self._turns = _turns(self._tokenizer, self._chats)
        return self._turns

    def _text(self, text: str) -> Row:
        if not text.strip():
            return Row([], [])
        ids = list(self._tokenizer(text)["input_ids"])
        end = self._tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
        return Row(ids, [0] * min(len(ids), 1) + [1] * (len(ids) - 1))

    def _tokens(self, text: str, spans: Sequence[Span]) -> Row:
        """Tokens of a text, found once; a token is trained where all of it is: one that begins in a prompt is the prompt's."""
        made = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        trained = [int(any(a <= start and end <= b for a, b in spans)) for start, end in made["offset_mapping"]]
        return Row(list(made["input_ids"]), trained)


def _turns(tokenizer: Any, chats: Chats) -> Turns:
    from jinja2.exceptions import TemplateError

    if tokenizer.chat_template is None:
        raise LaunchError(
            "the tokenizer has no chat template", hint="set data.chat_template=plain, =chatml, or to a file"
        )
    try:
        template = Marked(tokenizer.get_chat_template(), today=TODAY)
    except TemplateError as error:
        raise LaunchError(
            "the chat template cannot be read: {error}", hint="use another data.chat_template", error=first_line(error)
        ) from error
    tokens = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    return Turns(template, chats, tokens=tokens, specials=_specials(tokenizer))


def _specials(tokenizer: Any) -> set[str]:
    """Tokens that may end a turn. </tool_call> and such are added tokens too, but part of what is said."""
    added = tokenizer.added_tokens_decoder.values()
    return {
        *tokenizer.all_special_tokens,
        *(str(token) for token in added if token.special or str(token).startswith("<|")),
    }


def _conversation(value: Any) -> Mapping[str, Any]:
    """Of a row's column: a conversation as JSON, or a list of messages."""
    conversation: Mapping[str, Any] = json.loads(value) if isinstance(value, str) else {"messages": value}
    return conversation
