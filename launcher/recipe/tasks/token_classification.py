"""A label for each word of a text: names, places and other entities, parts of speech."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from launcher.messages import Message
from launcher.recipe.tasks.base import LABEL, Head, Labelled
from launcher.recipe.tasks.table import INTERFACE, TAGS, Data, Model, Problem

WORDS_COLUMN, TAGS_COLUMN = "tokens", "tags"
"""Where a recipe names no columns."""
_SPLIT = "-"
"""Between B or I and what kind of entity a word is of."""
_BY_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
"""Chinese characters and kana, which are words by themselves here."""
_WORD = re.compile(rf"[{_BY_CHARACTER}]|[^\W{_BY_CHARACTER}]+|[^\w\s]")


class TokenClassification(Labelled, Head):
    """A head over each word's first token."""

    interface = INTERFACE
    name = "token-classification"
    worker = "launcher.worker.tasks.token_classification:TokenClassification"
    encoder = "launcher.worker.tasks.words:word_encoder"
    architecture = "ForTokenClassification"
    mapping = "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"
    adapter_type = "TOKEN_CLS"
    pipeline = "token-classification"
    default_metrics = ("entity_f1", "entity_precision", "entity_recall", "accuracy")
    more_columns: tuple[str, ...] = ()
    adds: tuple[str, ...] = ("text", "names", "loss")

    def targets(self, model: Model, data: Data) -> str:
        return TAGS

    def reads(self, data: Data) -> dict[str, str]:
        return {"data.text": WORDS_COLUMN if data.text == "text" else data.text}

    def label_columns(self, data: Data) -> dict[str, str]:
        return {LABEL: TAGS_COLUMN if data.label == "label" else data.label}

    def problems(self, model: Model, data: Data) -> Iterator[Problem]:
        for key in ("prompt", "system", "answers"):
            if getattr(data, key) is not None:
                yield ("data", key), Message("has no effect: words are labelled where they stand")

    def is_answered(self, answer: Any) -> bool:
        return None not in answer["tags"]

    def answer_to(self, item: Any, answer: Any, label_names: Sequence[str]) -> dict[str, Any]:
        """The words with their tags, and the entities that these make. Places are of characters in a text, and of words in a
        list of words; `end` is behind the last one."""
        names = [None if tag is None else label_names[tag] for tag in answer["tags"]]
        is_list = isinstance(item, list)
        places = [] if is_list else spans(item)
        words = list(item) if is_list else [item[start:end] for start, end in places]
        names += [None] * (len(words) - len(names))  # of words behind data.max_length
        found = []
        for kind, first, last in entities(names):
            start, end = (first, last + 1) if is_list else (places[first][0], places[last][1])
            text = " ".join(words[first : last + 1]) if is_list else item[start:end]
            found.append({"type": kind, "text": text, "start": start, "end": end})
        return {"tokens": words, "tags": names, "entities": found}


def spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end: runs of letters and digits, and each sign, Chinese character and kana by
    itself."""
    return [match.span() for match in _WORD.finditer(text)]


def entities(tags: Sequence[str | None]) -> Iterator[tuple[str, int, int]]:
    """(type, first word, last word) of each run of words such as B-X, I-X, I-X. As seqeval's default mode and CoNLL's script read
    them, an I-X that follows no X begins one; S-X is one by itself, and E-X ends one. Other tags are of none.
    """
    kind, first, is_closed = "", 0, True
    for number, tag in enumerate(itertools.chain(tags, [None])):
        place, _, own = (tag or "").partition(_SPLIT)
        goes_on = place in ("I", "E") and own == kind and not is_closed
        if not goes_on:
            if kind:
                yield kind, first, number - 1
            kind, first = (own, number) if place in ("B", "I", "E", "S") else ("", number)
        is_closed = place in ("E", "S") or not kind


TOKEN_CLASSIFICATION = TokenClassification()
