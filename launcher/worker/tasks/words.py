"""Words as tokens, without torch: the ids of a text, and where in them each word begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.recipe.tasks.token_classification import spans
from launcher.worker.tasks.encoding import Encoder
from launcher.worker.tasks.prompts import fast_backend

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec

STARTS = "starts"
"""The place of each word's first token. There may be fewer than words: the last ones lie behind data.max_length."""
Span = tuple[int, int]


def joined(words: Sequence[str]) -> tuple[str, list[Span]]:
    """Words with a space between, and where each is."""
    places, at = [], 0
    for word in words:
        places.append((at, at + len(word)))
        at += len(word) + 1
    return " ".join(words), places


def word_encoder(recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
    """Ids of words with spaces between, or of a text.

    Raises:
        LaunchError: the tokenizer does not tell where in a text its tokens are.
    """
    if not tokenizer.is_fast:
        raise LaunchError(
            "{tokenizer} does not say where in a text its tokens are, so words cannot have labels",
            hint="use a model with a tokenizer.json",
            tokenizer=type(tokenizer).__name__,
        )
    (column,) = recipe.task.reads(recipe.data).values()
    max_length = recipe.data.max_length

    def rows(columns: Mapping[str, list[Any]]) -> Mapping[str, list[Sequence[int]]]:
        texts = [(item, spans(item)) if isinstance(item, str) else joined(item) for item in columns[column]]
        made = [
            {"input_ids": ids, STARTS: list(_starts(offsets, places))}
            for (ids, offsets), (_, places) in zip(
                _encoded(tokenizer, [text for text, _ in texts], max_length), texts, strict=True
            )
        ]
        return {name: [row[name] for row in made] for name in ("input_ids", STARTS)}

    def ids(items: list[Any]) -> list[Sequence[int]]:
        return list(rows({column: items})["input_ids"])

    return Encoder(
        ids,
        {"task": recipe.model.task},
        rows=rows,
        columns=("input_ids", STARTS),
        cut=Message("words lie behind data.max_length, and are neither trained nor scored"),
        labelled=STARTS,
    )


def _encoded(tokenizer: Any, texts: list[str], max_length: int) -> Iterator[tuple[list[int], list[Span]]]:
    """Ids of each text, cut to `max_length`, and where in the text each is from."""
    backend = fast_backend(tokenizer, max_length)
    if backend is not None:
        yield from ((e.ids, e.offsets) for e in backend.encode_batch(texts, add_special_tokens=True))
        return
    made = tokenizer(texts, truncation=True, max_length=max_length, padding=False, return_offsets_mapping=True)
    yield from zip(made["input_ids"], made["offset_mapping"], strict=True)


def _starts(offsets: Sequence[Span], places: Sequence[Span]) -> Iterator[int]:
    """The first token of each word, as far as there are tokens. A word of which the tokenizer leaves nothing has the next
    word's."""
    token = 0
    for start, _ in places:
        while token < len(offsets) and (offsets[token][1] <= start or offsets[token][0] == offsets[token][1]):
            token += 1
        if token == len(offsets):
            return
        yield token
