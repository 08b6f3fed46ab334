"""What a model is asked: the tokens of a conversation up to an answer that it is to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.recipe.tasks.sft import Chats
from launcher.worker.chat.speaker import Speaker
from launcher.worker.tasks.prompts import token_ids

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec


class Asked(NamedTuple):
    """A row whose answer is known."""

    ids: Sequence[int]
    reference: str
    """The answer, without thoughts."""


class Prompts:
    """Prompts for one tokenizer, as the recipe's rows are written."""

    def __init__(self, recipe: RecipeSpec, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._speaker = Speaker(tokenizer, Chats.of(recipe.data))

    def ids(self, conversations: Sequence[Mapping[str, Any]]) -> list[Sequence[int]]:
        """Of conversations that are to be answered (`messages`, and `tools`), and of texts that are to be gone on with (`text`).

        Raises:
            LaunchError: the chat template refuses one, or there is none.
        """
        is_text = ["text" in conversation for conversation in conversations]
        chats = [self._speaker.prompt(one) for one, plain in zip(conversations, is_text, strict=True) if not plain]
        texts = [one["text"] for one, plain in zip(conversations, is_text, strict=True) if plain]
        made = {False: iter(self._tokens(chats)), True: iter(self._tokens(texts, special=True))}
        return [next(made[plain]) for plain in is_text]

    def asked(self, conversations: Sequence[Mapping[str, Any]]) -> list[Asked | None]:
        """Of conversations that have an answer, what its last one is to. None of others, and of texts.

        Raises:
            LaunchError: as `ids`.
        """
        questions = [None if "text" in one else self._speaker.question(one) for one in conversations]
        ids = iter(self._tokens([question.prompt for question in questions if question is not None]))
        return [None if question is None else Asked(next(ids), question.reference) for question in questions]

    def _tokens(self, texts: list[str], *, special: bool = False) -> list[Sequence[int]]:
        rows = token_ids(self._tokenizer, texts, special=special) if texts else []
        # A model goes on from something: of nothing, from the token that begins a text.
        known = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        first = [token for token in known if token is not None][:1]
        rows = [row if len(row) else first for row in rows]
        ends = self._tokenizer.eos_token_id if special else None
        return [row[:-1] if ends is not None and len(row) > 1 and row[-1] == ends else row for row in rows]


def stops(tokenizer: Any, chats: Chats) -> list[int]:
    """The tokens that end what a model writes: the tokenizer's, and the one that ends a turn in its chat template."""
    turn = Speaker(tokenizer, chats).end_of_turn()
    ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(turn) if turn else None]
    return [int(one) for one in dict.fromkeys(ids) if one is not None]
