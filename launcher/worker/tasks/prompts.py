"""What a row's text becomes before the model: token ids, or a chat turn and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.errors import LaunchError
from launcher.messages import Message
from launcher.worker.tasks.encoding import Encoder

if TYPE_CHECKING:
    from launcher.recipe.schema import RecipeSpec


MIN_TEXT_TOKENS = 8
"""Room for a row's own text that must be left beside the prompt around it."""


def token_ids(tokenizer: Any, texts: list[str], *, special: bool, max_length: int | None = None) -> list[Sequence[int]]:
    """Token ids of each text, cut to `max_length`; arrays where the tokenizer is a fast one.

    A fast tokenizer's own call makes Python lists of every id and mask, on one core, which takes a quarter as long again
    as finding the ids does.
    """
    backend = fast_backend(tokenizer, max_length)
    if backend is None:
        cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
        return tokenizer(texts, add_special_tokens=special, padding=False, return_attention_mask=False, **cut)[
            "input_ids"
        ]
    return [np.asarray(e.ids, dtype=np.int32) for e in backend.encode_batch_fast(texts, add_special_tokens=special)]


def fast_backend(tokenizer: Any, max_length: int | None) -> Any:
    """The `tokenizers` object that a fast tokenizer calls, set up as it would; None where its class calls it otherwise."""
    from transformers import PreTrainedTokenizerFast
    from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy

    kind = type(tokenizer)
    if not issubclass(kind, PreTrainedTokenizerFast) or kind._encode_plus is not PreTrainedTokenizerFast._encode_plus:
        return None
    tokenizer.set_truncation_and_padding(
        padding_strategy=PaddingStrategy.DO_NOT_PAD,
        truncation_strategy=TruncationStrategy.DO_NOT_TRUNCATE
        if max_length is None
        else TruncationStrategy.LONGEST_FIRST,
        max_length=max_length,
        stride=0,
        pad_to_multiple_of=None,
        padding_side=None,
    )
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend


def text_encoder(recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
    """Ids of the text alone, or of the text and the one that is read with it."""
    if len(recipe.task.reads(recipe.data)) > 1:
        return _pair_encoder(recipe, tokenizer)
    # A row of no tokens has nothing to pool: it gets the one token that every vocabulary here has.
    lone = _lone(tokenizer)

    def ids(texts: list[str]) -> list[Sequence[int]]:
        rows = token_ids(tokenizer, texts, special=True, max_length=recipe.data.max_length)
        return [row if len(row) else [lone] for row in rows]

    return Encoder(ids, {"task": recipe.model.task})


SEGMENTS = "token_type_ids"
"""Which of two texts a token is of, for models that have an embedding for that."""


def _pair_encoder(recipe: RecipeSpec, tokenizer: Any) -> Encoder:
    """Ids of two texts as the tokenizer joins them; the longer one is cut first."""
    lone, has_types = _lone(tokenizer), SEGMENTS in tokenizer.model_input_names
    columns = ("input_ids", SEGMENTS) if has_types else ("input_ids",)

    def rows(texts: Mapping[str, list[Any]]) -> Mapping[str, list[Sequence[int]]]:
        first, second = (texts[name] for name in recipe.task.reads(recipe.data).values())
        made = tokenizer(
            first,
            second,
            padding=False,
            truncation="longest_first",
            max_length=recipe.data.max_length,
            return_attention_mask=False,
            return_token_type_ids=has_types,
        )
        ids = [row or [lone] for row in made["input_ids"]]
        types = {SEGMENTS: [row or [0] for row in made[SEGMENTS]]} if has_types else {}
        return {"input_ids": ids, **types}

    def ids(pairs: list[Any]) -> list[Sequence[int]]:
        firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return list(
            rows(dict(zip(recipe.task.reads(recipe.data).values(), (firsts, seconds), strict=True)))["input_ids"]
        )

    settings = {"task": recipe.model.task, "pairs": True}
    return Encoder(ids, settings, rows=rows, columns=columns, notes=_unparted(tokenizer))


def _unparted(tokenizer: Any) -> tuple[str, ...]:
    """What to say of a tokenizer that puts nothing between two texts."""
    one, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b"))
    both = tokenizer("a", "b")["input_ids"]
    if not any(both[i : i + len(one + other)] == one + other for i in range(len(both))):
        return ()
    return (
        Message(
            "the tokenizer joins the two texts of a row without anything between them, so where the second begins has to be "
            "seen from the texts; a separator at the start of the second ones would say it"
        ),
    )


def _lone(tokenizer: Any) -> int:
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next(token for token in known if token is not None)


def answers_of(recipe: RecipeSpec, label_names: Sequence[str]) -> tuple[str, ...]:
    """The text that stands for each label: data.answers, else model.label_names, else the label's number."""
    return recipe.data.answers or tuple(label_names)


def answer_encoder(recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
    chat = _Chat(tokenizer, recipe.data.system, recipe.data.prompt or "{text}")
    answers = answers_of(recipe, label_names)
    answer_ids = tuple(tuple(chat.answer_ids(answer)) for answer in answers)
    if len(set(answer_ids)) < len(answer_ids):
        raise LaunchError(
            "two of the answers {answers} are the same tokens", hint="change data.answers", answers=", ".join(answers)
        )
    around = len(chat.ids([""])[0]) + max(map(len, answer_ids))
    room = recipe.data.max_length - around
    if room < MIN_TEXT_TOKENS:
        raise LaunchError(
            "the prompt and answer take {around} of data.max_length {max_length} tokens",
            hint="set data.max_length to {last} or more, or shorten data.prompt",
            around=around,
            max_length=recipe.data.max_length,
            last=around + 64,
        )
    settings = {
        "task": recipe.model.task,
        "prompt": chat.prompt,
        "system": chat.system,
        "answers": [list(a) for a in answer_ids],
    }
    return Encoder(lambda texts: chat.ids_within(texts, room), settings, answer_ids)


class _Chat:
    """Messages of one row, rendered by the tokenizer's chat template, or plainly where it has none."""

    def __init__(self, tokenizer: Any, system: str | None, prompt: str) -> None:
        self.tokenizer = tokenizer
        self.system = system
        self.prompt = prompt
        self.has_template = tokenizer.chat_template is not None

    def ids(self, texts: list[str]) -> list[Sequence[int]]:
        """Prompt ids of each text, up to where the answer begins."""
        rendered = [self._render(text) for text in texts]
        # A template writes its own begin-of-text token; plain text gets the tokenizer's.
        rows = token_ids(self.tokenizer, rendered, special=not self.has_template)
        eos = self.tokenizer.eos_token_id
        if not self.has_template:
            rows = [row[:-1] if len(row) and row[-1] == eos else row for row in rows]
        return rows

    def ids_within(self, texts: list[str], room: int) -> list[Sequence[int]]:
        """Like `ids`, with each text cut to `room` tokens, so that the prompt's end and the answer always stay."""
        # No token is shorter than a character, byte-level ones apart, which only shortens more.
        long = [i for i, text in enumerate(texts) if len(text) > room]
        cut = dict(zip(long, self._cut([texts[i] for i in long], room), strict=True))
        return self.ids([cut.get(i, text) for i, text in enumerate(texts)])

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of the answer and of what ends the turn."""
        text = answer + (self.tokenizer.eos_token or "")
        if self.has_template:
            prompt = self._render("")
            whole = self._apply([*self._messages(""), {"role": "assistant", "content": answer}], more=False)
            # Some templates put text of their own before an answer; there the answer follows the prompt plainly.
            text = whole.removeprefix(prompt).rstrip() if whole.startswith(prompt) else text
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _cut(self, texts: list[str], room: int) -> list[str]:
        backend = fast_backend(self.tokenizer, None)
        if backend is not None:
            encodings = backend.encode_batch(texts, add_special_tokens=False)
            # Asked for one token's place: a list of all places would be made in Python.
            ends = [e.token_to_chars(room - 1)[1] if len(e) > room else None for e in encodings]
            return [text[:end] for text, end in zip(texts, ends, strict=True)]
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return [self.tokenizer.decode(r[:room]) if len(r) > room else t for t, r in zip(texts, rows, strict=True)]

    def _messages(self, text: str) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompt.replace("{text}", text)}]

    def _render(self, text: str) -> str:
        if self.has_template:
            return self._apply(self._messages(text), more=True)
        return "\n\n".join(m["content"] for m in self._messages(text)) + "\n"

    def _apply(self, messages: list[dict[str, str]], *, more: bool) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=more)
        except TemplateError as error:
            raise LaunchError(
                Message("the model's chat template refuses the messages: {error}", error=error),
                hint="put data.system's text into data.prompt" if self.system else "use another data.prompt",
            ) from error
