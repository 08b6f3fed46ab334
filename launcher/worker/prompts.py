"""What a row's text becomes before the model: token ids for a classification head, or a chat turn for a causal LM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError

if TYPE_CHECKING:
    from launcher.spec import RecipeSpec

MIN_TEXT_TOKENS = 8
"""Room for a row's own text that must be left beside the prompt around it."""


@dataclass(frozen=True)
class Encoder:
    """How texts become ids, and everything that the ids depend on besides the tokenizer."""

    ids: Callable[[list[str]], list[list[int]]]
    settings: dict[str, Any]
    answer_ids: tuple[tuple[int, ...], ...] | None = None


def encoder(recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
    """The encoder for the recipe's task.

    Raises:
        LaunchError: causal-lm, and the prompt leaves no room for the text, or two answers are the same tokens, or the
            chat template refuses the messages.
    """
    if recipe.model.task == "causal-lm":
        return _chat_encoder(recipe, tokenizer, label_names)
    max_length = recipe.data.max_length
    # A row of no tokens has nothing to pool: it gets the one token that every vocabulary here has.
    lone = (
        tokenizer.bos_token_id
        if tokenizer.bos_token_id is not None
        else tokenizer.eos_token_id or tokenizer.pad_token_id
    )

    def ids(texts: list[str]) -> list[list[int]]:
        encoded = tokenizer(texts, truncation=True, max_length=max_length, padding=False, return_attention_mask=False)
        return [row or [lone] for row in encoded["input_ids"]]

    return Encoder(ids, {"task": recipe.model.task})


def answers_of(recipe: RecipeSpec, label_names: Sequence[str]) -> tuple[str, ...]:
    """The text that stands for each label: data.answers, else model.label_names, else the label's number."""
    return recipe.data.answers or tuple(label_names)


def _chat_encoder(recipe: RecipeSpec, tokenizer: Any, label_names: Sequence[str]) -> Encoder:
    chat = _Chat(tokenizer, recipe.data.system, recipe.data.prompt or "{text}")
    answers = answers_of(recipe, label_names)
    answer_ids = tuple(tuple(chat.answer_ids(answer)) for answer in answers)
    if len(set(answer_ids)) < len(answer_ids):
        raise LaunchError(f"two of the answers {', '.join(answers)} are the same tokens", hint="change data.answers")
    around = len(chat.ids([""])[0]) + max(map(len, answer_ids))
    room = recipe.data.max_length - around
    if room < MIN_TEXT_TOKENS:
        raise LaunchError(
            f"the prompt and answer take {around} of data.max_length {recipe.data.max_length} tokens",
            hint=f"set data.max_length to {around + 64} or more, or shorten data.prompt",
        )
    settings = {
        "task": "causal-lm",
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

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Prompt ids of each text, up to where the answer begins."""
        rendered = [self._render(text) for text in texts]
        # A template writes its own begin-of-text token; plain text gets the tokenizer's.
        rows = self.tokenizer(rendered, add_special_tokens=not self.has_template, return_attention_mask=False)[
            "input_ids"
        ]
        eos = self.tokenizer.eos_token_id
        if not self.has_template:
            rows = [row[:-1] if row and row[-1] == eos else row for row in rows]
        return rows

    def ids_within(self, texts: list[str], room: int) -> list[list[int]]:
        """Like `ids`, with each text cut to `room` tokens, so that the prompt's end and the answer always stay."""
        return self.ids([self._cut(text, room) for text in texts])

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of the answer and of what ends the turn."""
        text = answer + (self.tokenizer.eos_token or "")
        if self.has_template:
            prompt = self._render("")
            whole = self._apply([*self._messages(""), {"role": "assistant", "content": answer}], more=False)
            # Some templates put text of their own before an answer; there the answer follows the prompt plainly.
            text = whole.removeprefix(prompt).rstrip() if whole.startswith(prompt) else text
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _cut(self, text: str, room: int) -> str:
        if len(text) <= room:  # no token is shorter than a character, byte-level ones apart, which only shortens more
            return text
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=self.tokenizer.is_fast)
        if len(encoded["input_ids"]) <= room:
            return text
        if not self.tokenizer.is_fast:
            return self.tokenizer.decode(encoded["input_ids"][:room])
        return text[: encoded["offset_mapping"][room - 1][1]]

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
                f"the model's chat template refuses the messages: {error}",
                hint="put data.system's text into data.prompt" if self.system else "use another data.prompt",
            ) from error
