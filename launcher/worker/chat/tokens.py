"""Texts as tokens, each with whether it is trained."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from launcher.errors import LaunchError
from launcher.worker.chat.turns import Text
from launcher.worker.tasks import prompts


class Row(NamedTuple):
    """A row as tokens; two arrays of int32."""

    input_ids: np.ndarray
    trained: np.ndarray
    """1 where a token is to be predicted. Never of the first, which nothing comes before."""


def of_chats(tokenizer: Any, texts: Sequence[Text]) -> list[Row]:
    """Of texts that a chat template wrote, special tokens and all.

    A text's tokens are found once, as where the model is used. A token is trained where all of it is: one that begins in a
    prompt is the prompt's.
    """
    backend = prompts.fast_backend(tokenizer, None)
    if backend is None:
        return [_in_pieces(tokenizer, text) for text in texts]
    encodings = backend.encode_batch([text.text for text in texts], add_special_tokens=False)
    return [_marked(encoding, text) for encoding, text in zip(encodings, texts, strict=True)]


def of_documents(tokenizer: Any, texts: Sequence[str]) -> list[Row]:
    """Of texts of which all is learnt, with the token that begins a text and the one that ends it."""
    if not texts:
        return []
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = [np.asarray(row, np.int32) for row in prompts.token_ids(tokenizer, list(texts), special=True)]
    rows = [row if row[-1:].tolist() == ends else np.append(row, ends) for row in rows]
    return [_row(row if text.strip() else row[:0], np.ones(len(row))) for row, text in zip(rows, texts, strict=True)]


def _row(ids: Sequence[int] | np.ndarray, trained: np.ndarray) -> Row:
    row = Row(np.asarray(ids, np.int32), np.asarray(trained[: len(ids)], np.int32))
    row.trained[:1] = 0
    return row


def _marked(encoding: Any, text: Text) -> Row:
    places = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    trained: Any = np.zeros(len(places), bool)
    for begin, end in text.trained:
        trained |= (places[:, 0] >= begin) & (places[:, 1] <= end)
    return _row(encoding.ids, trained)


def _in_pieces(tokenizer: Any, text: Text) -> Row:
    """With a tokenizer that does not say where its tokens are: pieces are tokenised alone.

    Raises:
        LaunchError: together they are other tokens than the whole text.
    """
    cuts = [0, *itertools.chain.from_iterable(text.trained), len(text.text)]
    pieces = [text.text[a:b] for a, b in itertools.pairwise(cuts)]
    ids = [tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else [] for piece in pieces]
    whole = list(itertools.chain.from_iterable(ids))
    if whole != tokenizer(text.text, add_special_tokens=False)["input_ids"]:
        raise LaunchError(
            "the tokenizer does not tell where an answer's tokens begin",
            hint="use its fast form, with a tokenizer.json: model.tokenizer",
        )
    return _row(whole, np.concatenate([np.full(len(piece), number % 2) for number, piece in enumerate(ids)]))
